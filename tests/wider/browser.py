"""People with browsers, and web apps as they are: JupyterLab, Streamlit and Datasette behind the gateway, over TLS, on
hosts that share no domain, with a real mail server and Chromium.

The apps are unchanged, and have no sign-in of their own switched on. `make deps-wider` installs them.
"""

import contextlib
import email
import email.policy
import http.client
import http.server
import json
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import mail
from pages import ELEMENT, Reader

ANN, PASSWORD = "ann@example.com", "Correct horse 42 staple"
# Where people sign in, and two hosts with apps: no two of them share a domain.
HOME, LAB, DATA, NOTES = "id.home.test", "lab.one.test", "data.two.example", "notes.three.example"
# A host that only a wildcard matches: no session is carried there.
WILD = "x.wild.test"
# An app of the same site as the sign-in.
SHOP = "shop.home.test"


def serves(run, url, seconds=60):
    run.until(f"{url} answers", lambda: run.fetch(url)[0] in (200, 302, 303), seconds)


class Apps:
    """JupyterLab, Streamlit and Datasette, on loopback."""

    def __init__(self, run, folder):
        self.run, self.folder = run, folder
        venv = run.ROOT / "target/wider/apps"
        self.python = venv / "bin/python"
        if not self.python.exists():
            raise AssertionError("JupyterLab, Streamlit and Datasette are not installed: `make deps-wider` says how")
        self.lab, self.charts, self.data = (run.free_port() for _ in range(3))
        # Their state stays in this folder.
        home = {**os.environ, "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
                "JUPYTER_DATA_DIR": str(folder / "jupyter-data"), "JUPYTER_RUNTIME_DIR": str(folder / "jupyter-run")}
        notebooks = folder / "notebooks"
        notebooks.mkdir()
        run.Process([str(self.python), "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={self.lab}",
                     "--ServerApp.token=", "--ServerApp.password=", "--ServerApp.allow_remote_access=True", "--ServerApp.port_retries=0",
                     f"--ServerApp.root_dir={notebooks}"], folder, env=home)
        script = folder / "chart.py"
        script.write_text("import streamlit as st\nst.write('Six times seven is', 6 * st.number_input('factor', value=7))\n")
        run.Process([str(self.python), "-m", "streamlit", "run", str(script), "--server.headless=true", "--server.address=127.0.0.1",
                     f"--server.port={self.charts}", "--server.baseUrlPath=charts", "--browser.gatherUsageStats=false"], folder, env=home)
        database = folder / "birds.db"
        with contextlib.closing(sqlite3.connect(database)) as birds:
            birds.execute("create table birds (name text)")
            birds.execute("insert into birds values ('wren'), ('dunnock')")
            birds.commit()
        run.Process([str(self.python), "-m", "datasette", "serve", str(database), "--host=127.0.0.1", f"--port={self.data}"], folder, env=home)
        serves(run, f"http://127.0.0.1:{self.lab}/api")
        serves(run, f"http://127.0.0.1:{self.charts}/charts/_stcore/health")
        serves(run, f"http://127.0.0.1:{self.data}/birds.json")


class Notes(http.server.BaseHTTPRequestHandler):
    """An app with a form, a manifest, and a list of what it was sent."""

    protocol_version = "HTTP/1.1"
    seen = []

    def answer(self, status, kind, text, **fields):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(text.encode())), **fields}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.seen.append(("GET", self.path))
        kind = "application/manifest+json" if self.path.endswith(".webmanifest") else "text/html"
        body = "{}" if "manifest" in kind else (
            "<!doctype html><title>notes</title><h1>Notes</h1><p id=path></p>"
            "<form method=post action=/save><input name=note><button type=submit>Save</button></form>"
            "<script>document.getElementById('path').textContent = location.pathname + location.hash</script>")
        self.answer(200, kind, body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(("POST", self.path))
        self.answer(303, "text/plain", "", Location="/list")

    def log_message(self, *_):
        pass


class World:
    """The gateway over TLS in front of the apps, its mail, and browsers."""

    def __init__(self, run, folder, more=""):
        self.run, self.folder = run, folder
        self.stack = contextlib.ExitStack()
        certificates = folder / "certificates"
        certificates.mkdir(parents=True)
        self.certificates = mail.Certificates(certificates)
        self.certificates.sign("people", "ours", ",".join(f"DNS:{name}" for name in (HOME, LAB, DATA, NOTES, WILD, SHOP)))
        self.server = self.stack.enter_context(mail.Server(starttls=self.certificates.context()))
        self.apps = Apps(run, folder)
        self.notes_app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notes)
        self.notes_app.daemon_threads = True
        threading.Thread(target=self.notes_app.serve_forever, daemon=True).start()
        self.stack.callback(self.notes_app.shutdown)
        self.port = run.free_port()
        self.home, self.lab, self.data, self.notes, self.wild, self.shop = (
            f"https://{host}:{self.port}" for host in (HOME, LAB, DATA, NOTES, WILD, SHOP))
        self.gateway = run.Gateway(folder / "people", self.config(more), public=self.home)

    def config(self, more):
        def route(name, host, port, path="/", extra=""):
            return (f'[[routes]]\nname = "{name}"\nmatch = {{ host = "{host}", path = "{path}" }}\n'
                    f'upstream = ["http://127.0.0.1:{port}"]\n{extra}\n')

        return f"""
tls = {{ listen = "127.0.0.1:{self.port}", cert = "{self.certificates.folder}/people.pem", key = "{self.certificates.folder}/people.key" }}
[accounts]
registration = "open"
[passwords]
bcrypt_cost = 4
[mail]
from = "Birdwatch <noreply@example.com>"
transport = "smtp://localhost:{self.server.port}"
ca = "{self.certificates.folder}/ours.pem"
{more}
{route("lab", LAB, self.apps.lab)}
{route("data", DATA, self.apps.data)}
{route("charts", DATA, self.apps.charts, "/charts")}
{route("notes", NOTES, self.notes_app.server_port, extra='preset = "pwa"')}
{route("wild", "*.wild.test", self.notes_app.server_port)}
{route("shop", SHOP, self.notes_app.server_port)}
"""

    def link(self, to, page):
        """The link of the newest mail to this address that has one."""
        def newest():
            for envelope in reversed(self.server.taken):
                message = email.message_from_bytes(envelope.content, policy=email.policy.default)
                links = [word.strip("<>") for word in message.get_body(("plain",)).get_content().split() if "#token=" in word]
                if envelope.rcpt_tos == [to] and links:
                    return links[0]
        link = self.run.until(f"a mail with a link to {to}", newest, 30)
        assert urllib.parse.urlsplit(link).path == page, link
        return link

    def browser(self, preferences=None):
        """A browser of its own: no cookie is shared with another."""
        rules = "MAP *.test 127.0.0.1, MAP *.example 127.0.0.1"
        browser = self.run.Browser(
            self.folder, f"--host-resolver-rules={rules}", "--ignore-certificate-errors", preferences=preferences)
        self.stack.enter_context(browser)
        return Person(browser, self.run.until)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gateway.stop()
        self.stack.close()


class Person(Reader):
    """A person in front of a browser, who reads what is there and fills in forms."""

    def at(self):
        return urllib.parse.urlsplit(self.js("return location.href"))

    def is_at(self, origin, path=None, seconds=30):
        def there():
            at = self.at()
            return f"{at.scheme}://{at.netloc}" == origin and (path is None or at.path == path)
        self.until(f"the browser is at {origin}{path or ''}", there, seconds)

    def goes(self, url):
        self.browser.ask("/url", {"url": url})

    def fills(self, **fields):
        for name, text in fields.items():
            self.types(f"form [name={name}]:not([type=hidden])", text)

    def submits(self, name=None):
        """Presses the button of the page's main form and waits for the next document."""
        selector = f"button[name={name}]" if name else "main form button[type=submit]"
        self.js("window.before = true")
        self.presses(selector)
        self.until("another document is there", lambda: self.js("return !window.before && document.readyState === 'complete'"), 30)

    def later(self, script, *arguments):
        """What a promise in the page comes to."""
        body = "const done = arguments[arguments.length - 1]; (async (...given) => {" + script + "})(...arguments).then(done, error => done('failed: ' + error))"
        return self.browser.ask("/execute/async", {"script": body, "args": list(arguments)})

    def opens_tab(self, url):
        handle = self.browser.ask("/window/new", {"type": "tab"})["handle"]
        self.switches(handle)
        self.goes(url)
        return handle

    def switches(self, handle):
        self.browser.ask("/window", {"handle": handle})

    def tab(self):
        return self.browser.ask("/window")

    def is_signed_in(self, host):
        return any(cookie["domain"] == host for cookie in self.cdp("Network.getAllCookies")["cookies"] if cookie["name"] == "__Host-palisade")

    def cookies(self):
        return {cookie["name"]: cookie for cookie in self.cdp("Network.getAllCookies")["cookies"]}


KERNEL = """
    const xsrf = document.cookie.match(/_xsrf=([^;]+)/)?.[1] ?? "";
    const started = await fetch("/api/kernels", { method: "POST", headers: { "X-XSRFToken": xsrf } });
    if (!started.ok) return "kernel: " + started.status;
    const { id } = await started.json();
    const socket = window.socket = new WebSocket("wss://" + location.host + "/api/kernels/" + id + "/channels");
    window.closed = new Promise(resolve => socket.onclose = event => resolve(performance.now()));
    socket.onclose = event => window.closedAt = Date.now();
    await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = () => reject("no socket"); });
    const header = { msg_id: "1", username: "", session: "s", msg_type: "execute_request", version: "5.3", date: new Date().toISOString() };
    const content = { code: "print(6 * 7)", silent: false, store_history: false, user_expressions: {}, allow_stdin: false };
    const said = new Promise(resolve => socket.onmessage = message => {
        if (typeof message.data !== "string") return;
        const { msg_type, content } = JSON.parse(message.data);
        if (msg_type === "stream") resolve(content.text.trim());
    });
    socket.send(JSON.stringify({ header, parent_header: {}, metadata: {}, content, channel: "shell" }));
    return await said;
"""


def registers(world, person, address=ANN, password=PASSWORD):
    """From the sign-in page to the mail."""
    person.is_at(world.home, "/auth/pages/sign-in")
    person.presses("a[href*='/pages/register']")
    person.is_at(world.home, "/auth/pages/register")
    person.fills(email=address, password=password)
    person.submits()
    person.is_at(world.home, "/auth/pages/check-mail")
    return world.link(address, "/auth/pages/verify")


def signs_in(world, person, address=ANN, password=PASSWORD):
    person.is_at(world.home, "/auth/pages/sign-in")
    person.fills(email=address, password=password)
    person.submits()


def a_person_uses_three_apps(world):
    """The whole way: sent to sign in, registered, verified, back where it began, and out again."""
    person = world.browser()
    person.goes(world.lab + "/lab")
    link = registers(world, person)
    person.goes(link)
    person.submits()
    person.is_at(world.lab, "/lab")
    assert person.later(KERNEL) == "42"
    lab = person.tab()

    person.opens_tab(world.data + "/birds/birds")
    person.is_at(world.data, "/birds/birds")
    person.sees("dunnock")
    charts = person.opens_tab(world.data + "/charts/")
    person.is_at(world.data)
    person.sees("Six times seven is")
    person.sees("42")

    person.opens_tab(world.home + "/auth/pages/account")
    person.sees(ANN)
    person.goes(world.home + "/auth/pages/sign-out")
    if person.js("return !!document.querySelector('main form button[type=submit]')"):
        # It was typed, and not linked to: one question.
        signed_out = person.js("return Date.now()")
        person.submits()
    else:
        signed_out = person.js("return Date.now()")
    person.switches(lab)
    person.until("the kernel's WebSocket is closed", lambda: person.js("return window.closedAt || 0"), 20)
    took = person.js("return window.closedAt") - signed_out
    assert took < 1000, f"the WebSocket was closed {took} ms after the sign-out began"
    print(f"        the kernel's WebSocket was closed {took} ms after the button was pressed", flush=True)
    assert person.later("return (await fetch('/api')).status") == 401
    person.goes(world.lab + "/lab")
    person.is_at(world.home, "/auth/pages/sign-in")
    person.switches(charts)
    person.goes(world.data + "/charts/")
    person.is_at(world.home, "/auth/pages/sign-in")


def signed_in(world, url):
    """A person of the account of the first check, signed in and at `url`."""
    person = world.browser()
    person.goes(url)
    signs_in(world, person)
    at = urllib.parse.urlsplit(url)
    person.is_at(f"{at.scheme}://{at.netloc}", at.path)
    return person


def signs_out(world, person):
    person.goes(world.home + "/auth/pages/sign-out")
    person.submits()
    person.until("the session is over", lambda: not person.is_signed_in(HOME), 20)


def ten_tabs_ask_for_one_sign_in(world):
    """Opened after the session has ended. One is signed in in; the others, reloaded or submitted late, land where they
    wanted. No cookie grows with each try."""
    person = world.browser()
    person.goes(world.notes + "/0")
    person.is_at(world.home, "/auth/pages/sign-in")
    first, before = person.tab(), None
    tabs = []
    for n in range(1, 10):
        tabs.append((person.opens_tab(f"{world.notes}/{n}"), n))
        person.is_at(world.home, "/auth/pages/sign-in")
        if before is None:
            before = {name: len(cookie["value"]) for name, cookie in person.cookies().items()}
    assert {name: len(cookie["value"]) for name, cookie in person.cookies().items()} == before
    person.switches(first)
    signs_in(world, person)
    person.is_at(world.notes, "/0")
    for tab, n in tabs:
        person.switches(tab)
        if n % 2:
            person.goes(person.js("return location.href"))
        else:
            signs_in(world, person)
        person.is_at(world.notes, f"/{n}")


def a_fragment_survives_the_sign_in(world):
    person = world.browser()
    person.goes(world.notes + "/reports#/report/7")
    signs_in(world, person)
    person.is_at(world.notes, "/reports")
    person.sees("/reports#/report/7")
    assert not [path for _, path in Notes.seen if "report/7" in path], Notes.seen


def a_form_posted_too_late_is_not_sent(world):
    person = signed_in(world, world.notes + "/new")
    page = person.tab()
    person.opens_tab("about:blank")
    signs_out(world, person)
    person.switches(page)
    Notes.seen.clear()
    person.types("[name=note]", "too late")
    person.presses("button")
    person.is_at(world.home, "/auth/pages/sign-in")
    person.sees("not sent")
    signs_in(world, person)
    person.is_at(world.notes, "/new")
    assert not [what for what in Notes.seen if "/save" in what[1]], Notes.seen
    # The same where another tab has signed in meanwhile: it is told, although there is a session again.
    other = person.opens_tab("about:blank")
    signs_out(world, person)
    person.goes(world.home + "/auth/pages/sign-in")
    signs_in(world, person)
    person.is_at(world.home, "/auth/pages/account")
    person.switches(page)
    person.types("[name=note]", "too late again")
    person.presses("button")
    person.is_at(world.home, "/auth/pages/sign-in")
    person.sees("This was not sent")
    person.presses("main a.button")
    person.is_at(world.notes, "/new")
    assert other and not [what for what in Notes.seen if "/save" in what[1]], Notes.seen


def scripts_and_programs_get_a_401_that_names_the_sign_in(world):
    person = signed_in(world, world.notes + "/list")
    page = person.tab()
    person.opens_tab("about:blank")
    signs_out(world, person)
    person.switches(page)
    status, kind, document = person.later("""
        const answer = await fetch("/api/notes");
        return [answer.status, answer.headers.get("content-type"), await answer.json()];
    """)
    assert (status, kind) == (401, "application/problem+json"), (status, kind)
    sign_in = urllib.parse.urlsplit(document["sign_in"])
    assert f"{sign_in.scheme}://{sign_in.netloc}" == world.home, document
    assert urllib.parse.parse_qs(sign_in.query)["return_to"] == [world.notes + "/list"], document
    status, elsewhere = person.later("""
        const answer = await fetch("/api/notes", { headers: { "HX-Request": "true", "HX-Current-URL": location.href } });
        return [answer.status, answer.headers.get("hx-redirect")];
    """)
    assert status == 401 and "/auth/pages/sign-in" in elsewhere, (status, elsewhere)
    # Turbo says which frame of the page it loads.
    assert person.later("""
        const headers = { "Turbo-Frame": "notes", "Accept": "text/html, application/xhtml+xml" };
        return (await fetch("/api/notes", { headers })).status;
    """) == 401
    assert person.later("""
        const request = new XMLHttpRequest();
        request.open("GET", "/api/notes");
        return await new Promise(resolve => { request.onloadend = () => resolve(request.status); request.send(); });
    """) == 401
    assert person.later("""
        const events = new EventSource("/events");
        return await new Promise(resolve => events.onerror = () => resolve(events.readyState));
    """) == 2
    assert person.later("""
        const socket = new WebSocket("wss://" + location.host + "/socket");
        return await new Promise(resolve => { socket.onerror = () => resolve("refused"); socket.onopen = () => resolve("open"); });
    """) == "refused"
    # A manifest is fetched by the browser without anything that shows who asks.
    assert person.later("return (await fetch('/manifest.webmanifest', { credentials: 'omit' })).status") == 200
    assert person.later("return (await fetch('/sw.js', { redirect: 'manual' })).status") == 401
    assert "failed" in person.later("return String(await navigator.serviceWorker.register('/sw.js'))")


def a_browser_that_keeps_no_cookie_is_told_so(world):
    person = world.browser(preferences={"profile.default_content_setting_values.cookies": 2})
    person.goes(world.notes + "/list")
    person.is_at(world.home, "/auth/pages/sign-in")
    person.fills(email=ANN, password=PASSWORD)
    person.submits()
    person.is_at(world.notes, "/.palisade/carry")
    person.sees("cookie")


def a_host_of_a_wildcard_is_sent_to_no_sign_in_that_would_not_help(world):
    person = world.browser()
    person.goes(world.wild + "/list")
    person.is_at(world.wild, "/list")
    person.sees("Not the right address")
    assert HOME in person.js("return document.querySelector('main a').href")


def a_link_opened_elsewhere_finishes_there(world):
    """A mail scanner that runs the page uses nothing up; the telephone asks for the password, and lands where the first
    browser wanted to go."""
    desk, telephone, scanner = world.browser(), world.browser(), world.browser()
    desk.goes(world.notes + "/from-the-desk")
    link = registers(world, desk, "bob@example.com")
    scanner.goes(link)
    scanner.is_at(world.home, "/auth/pages/verify")
    telephone.goes(link)
    telephone.submits()
    telephone.fills(password=PASSWORD)
    telephone.submits()
    telephone.is_at(world.notes, "/from-the-desk")
    scanner.submits()
    scanner.is_at(world.home)
    # The window that waits asks again by itself.
    desk.until("the first window says what happened", lambda: "confirmed" in desk.js("return document.body.innerText"), 40)
    desk.is_at(world.home, "/auth/pages/check-mail")


def a_frame_shows_a_notice_and_no_form(world):
    person = world.browser()
    # Of another site, on the same machine: browsers keep pages of elsewhere from this machine's own addresses.
    person.goes(f"http://127.0.0.1:{world.notes_app.server_port}/outer")
    person.js("document.body.innerHTML = '<iframe></iframe>'; document.querySelector('iframe').src = arguments[0]", world.notes + "/list")
    person.browser.ask("/frame", {"id": {ELEMENT: person.part("iframe")}})
    person.until("the notice is there", lambda: person.js("return document.querySelectorAll('main a').length") == 1, 20)
    assert person.js("return document.forms.length") == 0
    person.browser.ask("/frame", {"id": None})


def nothing_but_a_page_starts_a_sign_in(world):
    def ask(method, path, host=NOTES, **fields):
        context = ssl.create_default_context(cafile=str(world.certificates.folder / "ours.pem"))
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", world.port, timeout=30, context=context)
        connection.request(method, path, headers={"Host": f"{host}:{world.port}", **{k.replace("_", "-"): v for k, v in fields.items()}})
        return connection.getresponse().status

    html = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
    document = {"Accept": html, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    for status, method, path, fields in [
        (303, "GET", "/list", document),
        (303, "HEAD", "/list", document),
        (303, "GET", "/list", {"Accept": html}),
        (401, "GET", "/favicon.ico", {"host": DATA, "Accept": "image/avif,image/webp,*/*;q=0.8", "Sec_Fetch_Dest": "image", "Sec_Fetch_Mode": "no-cors"}),
        (401, "GET", "/list", {**document, "Sec_Purpose": "prefetch;prerender"}),
        (401, "GET", "/list", {"Accept": "*/*", "User_Agent": "Slackbot-LinkExpanding 1.0"}),
        (401, "GET", "/list", {"Accept": html, "X_Requested_With": "XMLHttpRequest"}),
        (401, "GET", "/list", {"Accept": "text/html", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}),
    ]:
        got = ask(method, path, **fields)
        assert got == status, (status, got, method, path, fields)


def an_app_signs_out_by_a_link(world):
    """Of the same site it does so at once, of another after one question; an image or a frame signs no visitor out."""
    person = signed_in(world, world.shop + "/")
    link = world.home + "/auth/pages/sign-out?return_to=" + urllib.parse.quote(world.shop + "/", safe="")
    # Each of them tells when its request was answered.
    person.later("""
        const [link] = given;
        for (const name of ["img", "iframe"]) {
            const part = document.createElement(name);
            const answered = new Promise(resolve => part.onload = part.onerror = resolve);
            part.src = link;
            document.body.append(part);
            await answered;
        }
        return 0;
    """, link)
    assert person.is_signed_in(HOME)
    person.js("document.body.insertAdjacentHTML('beforeend', '<a id=out href=\"' + arguments[0] + '\">out</a>')", link)
    person.presses("#out")
    person.is_at(world.home, "/auth/pages/sign-out")
    person.sees("You are signed out")
    assert not person.is_signed_in(HOME)
    # The way back does not sign in again by itself.
    person.presses("main a.button")
    person.is_at(world.home, "/auth/pages/sign-in")

    person = signed_in(world, world.notes + "/")
    person.js("document.body.insertAdjacentHTML('beforeend', '<a id=out href=\"' + arguments[0] + '\">out</a>')", link)
    person.presses("#out")
    person.is_at(world.home, "/auth/pages/sign-out")
    person.sees("Sign out?")
    assert person.is_signed_in(HOME)
    person.submits()
    person.sees("You are signed out")
    assert not person.is_signed_in(HOME)


def an_http_address_of_an_https_service_is_told(world):
    person = world.browser()
    person.goes(f"http://{NOTES}:{world.gateway.port}/list")
    person.until("a page says so", lambda: "address" in person.js("return document.body.innerText"), 20)
    assert person.js("return document.querySelector('main a').href").startswith("https://"), person.js("return document.body.innerHTML")


def it_works_without_script(world):
    person = world.browser()
    person.cdp("Emulation.setScriptExecutionDisabled", value=True)
    person.goes(world.notes + "/list")
    for name, text in (("email", ANN), ("password", PASSWORD)):
        person.types(f"form [name={name}]", text)
    person.presses("main form button[type=submit]")
    person.until("the browser is back", lambda: person.browser.ask("/url").startswith(world.notes + "/list"), 30)


CHECKS = [
    a_person_uses_three_apps,
    ten_tabs_ask_for_one_sign_in,
    a_fragment_survives_the_sign_in,
    a_form_posted_too_late_is_not_sent,
    scripts_and_programs_get_a_401_that_names_the_sign_in,
    a_browser_that_keeps_no_cookie_is_told_so,
    a_host_of_a_wildcard_is_sent_to_no_sign_in_that_would_not_help,
    a_link_opened_elsewhere_finishes_there,
    a_frame_shows_a_notice_and_no_form,
    nothing_but_a_page_starts_a_sign_in,
    an_app_signs_out_by_a_link,
    an_http_address_of_an_https_service_is_told,
    it_works_without_script,
]


def story(run, folder):
    with World(run, folder) as world:
        for check in CHECKS:
            begun = time.monotonic()
            check(world)
            print(f"        {check.__name__.replace('_', ' ')} ({time.monotonic() - begun:.1f}s)", flush=True)
    said = world.gateway.process.said()
    for secret in (PASSWORD, "#token=", "code="):
        assert secret not in said, f"{secret!r} is in the log"
