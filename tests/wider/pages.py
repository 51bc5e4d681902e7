"""The pages that mailed links open, in a real browser.

What they call is played by a stand-in of the endpoints, so that every answer can be tried. It puts
the pages together from their sources as the gateway does, with the same policy; that both do it alike is
for the tests beside the gateway's code.
"""

import base64
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src/edge/api/native/pages"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver §12


def page(name):
    style = "\n" + (SOURCES / "page.css").read_text()
    script = "\n" + (SOURCES / "page.js").read_text() + "\n" + (SOURCES / f"{name}.js").read_text()
    html = (SOURCES / f"{name}.html").read_text().replace("{{style}}", style).replace("{{script}}", script)
    source = lambda text: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    policy = (f"default-src 'none'; script-src {source(script)}; style-src {source(style)}; connect-src 'self'; "
              "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
    return html, policy


def problem(status, detail, **more):
    return status, {"type": "about:blank", "status": status, "title": "x", "code": "x", "detail": detail, **more}


class StandIn(http.server.ThreadingHTTPServer):
    """Answers each path with the next of its `answers`, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.posts, self.targets = {}, [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def plan(self, **answers):
        self.answers = {path.replace("_", "-"): list(planned) for path, planned in answers.items()}
        self.posts.clear()


class Handler(http.server.BaseHTTPRequestHandler):
    def send(self, status, kind, body, **fields):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def planned(self):
        name = self.path.rsplit("/", 1)[1]
        status, document = self.server.answers[name].pop(0)
        self.send(status, "application/json" if status < 400 else "application/problem+json", json.dumps(document).encode())

    def do_GET(self):
        self.server.targets.append(self.path)
        name = self.path.rsplit("/", 1)[1]
        if "/pages/" not in self.path:
            return self.planned() if name in self.server.answers else self.send(404, "text/plain", b"")
        html, policy = page(name)
        self.send(200, "text/html; charset=utf-8", html.encode(), Content_Security_Policy=policy,
                  Referrer_Policy="no-referrer", Cache_Control="no-store", X_Content_Type_Options="nosniff")

    def do_POST(self):
        self.server.targets.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, self.headers["Content-Type"], self.headers["Referer"], json.loads(body)))
        self.planned()

    def log_message(self, *_):
        pass


class Reader:
    """A person in front of the browser."""

    def __init__(self, browser, until):
        self.browser, self.until = browser, until

    def opens(self, url):
        # Another document first: a change of the fragment alone would load nothing.
        self.browser.ask("/url", {"url": "about:blank"})
        self.browser.ask("/url", {"url": url})

    def js(self, script, *arguments):
        return self.browser.ask("/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command, **parameters):
        return self.browser.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def sees(self, text):
        self.until(f"the page shows {text!r}", lambda: text in self.js("return document.body.innerText"), 20)

    def does_not_see(self, text):
        shown = self.js("return document.body.innerText")
        assert text not in shown, shown

    def part(self, selector):
        return self.browser.ask("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def presses(self, selector):
        self.browser.ask(f"/element/{self.part(selector)}/click", {})

    def types(self, selector, text):
        self.browser.ask(f"/element/{self.part(selector)}/value", {"text": text})

    def keys(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.browser.ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})


TAB, ENTER, SPACE = "\ue004", "\ue007", " "
GONE = problem(400, "This link has expired or was used already. Ask for a new one.")


def verify(reader, server):
    url = server.url + "/auth/pages/verify"
    server.plan(verify_email=[problem(503, "The store cannot write; try again."), (200, {})])
    reader.opens(url + "#token=abc-DEF_123")
    reader.sees("Press the button")
    # Whatever opens the link and runs its script has not used it up, and the token is out of sight.
    assert server.posts == [] and reader.js("return location.href") == url
    assert reader.js("return history.length") >= 1 and "abc-DEF" not in reader.js("return document.documentElement.outerHTML")
    reader.keys(TAB, ENTER)
    reader.sees("The store cannot write; try again.")
    reader.presses("#confirm")
    reader.sees("Your e-mail address is confirmed.")
    path, kind, referrer, body = server.posts[1]
    assert (path, kind, referrer, body) == ("/auth/verify-email", "application/json", None, {"token": "abc-DEF_123", "proof": True}), server.posts
    reader.does_not_see("Press the button")
    assert reader.js("return document.getElementById('result').getAttribute('aria-live')") == "polite"

    # A second link in the same tab: only the fragment differs, and the page is not loaded again.
    server.plan(verify_email=[GONE])
    reader.js("location.hash = 'token=second'")
    reader.sees("Press the button")
    reader.presses("#confirm")
    reader.sees(GONE[1]["detail"])
    reader.does_not_see("Press the button")
    assert server.posts[0][3] == {"token": "second", "proof": True}, server.posts

    for fragment in ("", "#", "#token=", "#other=x"):
        reader.opens(url + fragment)
        reader.sees("The link is not complete")
        reader.does_not_see("Press the button")

    server.plan(verify_email=[(400, {"detail": "<img src=x onerror=document.title=1><b>no</b>"})])
    reader.opens(server.url + "/some/prefix/pages/verify#token=abc")
    reader.presses("#confirm")
    reader.sees("<b>no</b>")
    assert server.posts[0][0] == "/some/prefix/verify-email", server.posts
    assert reader.browser.title() == "Confirm your e-mail address"


def proves(reader, server):
    """The link alone is not enough: the password of the registration, or a new one."""
    url = server.url + "/auth/pages/verify"
    needed = problem(403, "The link alone is not enough.", ways=["password", "new_password"])
    needed[1]["code"] = "proof_needed"
    wrong = problem(403, "the current password is wrong")
    wrong[1]["code"] = "wrong_password"
    server.plan(verify_email=[needed, wrong, problem(429, "Too many attempts; try again in 7 s."), (200, {})])
    reader.opens(url + "#token=abc")
    reader.presses("#confirm")
    reader.sees("If it was you, type that password")
    reader.does_not_see("Press the button")
    look(reader, "verify-prove")
    field = "return document.getElementById('password')."
    assert reader.js(field + "autocomplete") == "current-password" and reader.js(field + "labels[0].textContent") == "Password"
    assert reader.js("return document.activeElement.id") == "password"
    reader.keys(ENTER)
    assert len(server.posts) == 1, server.posts
    reader.types("#password", "a guess")
    reader.keys(TAB, SPACE)
    assert reader.js(field + "type") == "text"
    reader.keys(SPACE)
    reader.presses("#give")
    reader.sees("That is not the password")
    look(reader, "verify-wrong")
    assert reader.js(field + "getAttribute('aria-invalid')") == "true" and reader.js("return document.activeElement.id") == "password"
    reader.keys(ENTER)
    reader.sees("try again in 7 s")
    reader.presses("#give")
    reader.sees("Your e-mail address is confirmed.")
    reader.does_not_see("Choose a new password")
    look(reader, "verify-done")
    assert server.posts[-1][3] == {"token": "abc", "proof": True, "password": "a guess"}, server.posts
    assert reader.js(field + "value") == ""

    rules = (200, {"text": ["Use at least 15 characters.", "Do not use a common password."]})
    weak = problem(422, "The password breaks a rule.", violations=[{"rule": "too_short", "text": "It is <i>too</i> short."}])
    server.plan(verify_email=[needed, weak, (200, {})], password_requirements=[rules])
    reader.opens(url + "#token=abc")
    reader.presses("#confirm")
    reader.sees("If it was you, type that password")
    reader.presses("#other")
    reader.sees(" ".join(rules[1]["text"]))
    field = "return document.getElementById('new_password')."
    assert reader.js(field + "autocomplete") == "new-password" and reader.js("return document.activeElement.id") == "new_password"
    reader.types("#new_password", "short")
    reader.keys(ENTER)
    reader.sees("It is <i>too</i> short.")
    look(reader, "verify-choose")
    reader.types("#new_password", " but now long enough")
    reader.presses("#set")
    reader.sees("your new password")
    assert server.posts[-1][3] == {"token": "abc", "proof": True, "new_password": "short but now long enough"}, server.posts
    assert len(server.posts) == 3 and reader.js(field + "value") == "", server.posts

    # An account without a password has only one way. A link that is gone by then ends it.
    none = problem(403, "The link alone is not enough.", ways=["new_password"])
    none[1]["code"] = "proof_needed"
    server.plan(verify_email=[none, GONE], password_requirements=[rules])
    reader.opens(url + "#token=abc")
    reader.presses("#confirm")
    reader.sees("Set the password and confirm")
    reader.does_not_see("If it was you")
    reader.types("#new_password", "long enough this time")
    reader.keys(ENTER)
    reader.sees(GONE[1]["detail"])
    reader.does_not_see("Set the password")


def look(reader, name):
    """Keeps a picture of the page in the folder SCREENSHOTS, and holds it against what every page must be."""
    assert reader.js(CONTRAST) == [], (name, reader.js(CONTRAST))
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        picture = reader.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(picture))


def change(reader, server):
    """A link to a new address asks for the password of the account, and offers no other way."""
    needed, wrong = problem(403, "Not enough.", ways=["password", "access_token"]), problem(403, "No.")
    needed[1]["code"], wrong[1]["code"] = "proof_needed", "wrong_password"
    server.plan(verify_email=[needed, wrong, (200, {})])
    reader.opens(server.url + "/auth/pages/verify#token=abc")
    reader.presses("#confirm")
    reader.sees("This link changes the address of an account.")
    reader.does_not_see("If it was you")
    reader.does_not_see("choose a new one")
    look(reader, "verify-change")
    reader.types("#password", "first")
    reader.presses("#give")
    reader.sees("That is not the password. Try again.")
    reader.types("#password", " second")
    reader.keys(ENTER)
    reader.sees("Your e-mail address is confirmed.")
    assert server.posts[-1][3] == {"token": "abc", "proof": True, "password": "first second"}, server.posts



def reset(reader, server):
    url = server.url + "/auth/pages/reset"
    rules = (200, {"text": ["Use at least 15 characters.", "Do not use a common password."]})
    weak = problem(422, "The password breaks two rules.", violations=[
        {"rule": "too_short", "text": "It needs 15 characters or more."}, {"rule": "too_common", "text": "It is <i>too</i> common."}])
    server.plan(validate=[(200, {})], confirm=[weak, (204, {})], password_requirements=[rules])
    reader.opens(url + "#token=abc-DEF_123")
    reader.sees(" ".join(rules[1]["text"]))
    assert reader.js("return location.href") == url
    assert server.posts == [("/auth/password-resets/validate", "application/json", None, {"token": "abc-DEF_123"})], server.posts
    field = "return document.getElementById('password')."
    assert reader.js(field + "autocomplete") == "new-password" and reader.js(field + "labels[0].textContent") == "New password"
    assert reader.js("return document.activeElement.id") == "password"
    reader.keys(ENTER)
    reader.types("#password", "short")
    reader.keys(TAB, SPACE)
    assert reader.js(field + "type") == "text" and reader.js(field + "value") == "short"
    reader.keys(SPACE)
    assert reader.js(field + "type") == "password"
    reader.presses("#set")
    for text in (weak[1]["detail"], "It needs 15 characters or more.", "It is <i>too</i> common."):
        reader.sees(text)
    assert reader.js("return document.querySelectorAll('#result li').length") == 2
    assert reader.js(field + "getAttribute('aria-invalid')") == "true" and reader.js("return document.activeElement.id") == "password"
    reader.types("#password", " but now long enough")
    reader.keys(ENTER)
    reader.sees("Your new password is set.")
    assert server.posts[-1][0] == "/auth/password-resets/confirm", server.posts
    assert server.posts[-1][3] == {"token": "abc-DEF_123", "new_password": "short but now long enough"}, server.posts
    assert reader.js(field + "value") == "" and len(server.posts) == 3, server.posts

    server.plan(validate=[GONE], password_requirements=[rules])
    reader.opens(url + "#token=old")
    reader.sees(GONE[1]["detail"])
    reader.does_not_see("New password")
    reader.does_not_see("Try again")

    server.plan(validate=[problem(429, "Too many attempts; try again in 7 s."), (200, {})], password_requirements=[rules, rules])
    reader.opens(url + "#token=abc")
    reader.sees("try again in 7 s")
    reader.presses("#retry")
    reader.sees("New password")
    assert reader.js("return location.href") == url

    reader.opens(url)
    reader.sees("The link is not complete")


def everywhere(reader, server):
    for name in ("verify", "reset"):
        server.plan(validate=[(200, {})] * 3, password_requirements=[(200, {"text": ["A" * 80]})] * 3)
        reader.cdp("Emulation.setDeviceMetricsOverride", width=320, height=480, deviceScaleFactor=1, mobile=True)
        for scheme in ("light", "dark"):
            reader.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            reader.opens(f"{server.url}/auth/pages/{name}#token=abc")
            reader.until("the form is there", lambda: reader.js("return !document.getElementById('act').hidden"), 20)
            assert reader.js("return document.documentElement.scrollWidth <= 320"), name
            low = reader.js(CONTRAST)
            assert low == [], (name, scheme, low)
            if name == "verify":
                for form in ("prove", "choose"):
                    reader.js("only(arguments[0]); document.getElementById('otherwise').hidden = false", form)
                    assert reader.js("return document.documentElement.scrollWidth <= 320"), form
                    look(reader, f"verify-{form}-{scheme}-320")
        reader.cdp("Emulation.clearDeviceMetricsOverride")
        reader.cdp("Emulation.setScriptExecutionDisabled", value=True)
        reader.opens(f"{server.url}/auth/pages/{name}#token=abc")
        reader.sees("This page needs JavaScript")
        reader.cdp("Emulation.setScriptExecutionDisabled", value=False)
        # What is put into the page does not run.
        reader.opens(f"{server.url}/auth/pages/{name}#token=abc")
        reader.js("""
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"document.title = 'ran'\\">");
            document.body.style.setProperty("--x", "y");
        """)
        assert reader.browser.title() != "ran"
    # No request has ever had the token in its target.
    assert not [target for target in server.targets if "abc" in target or "token" in target], server.targets


# Texts with a contrast to their background below 4.5 (WCAG 2.2, 1.4.3).
CONTRAST = """
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const color = rgb(getComputedStyle(node).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll("h1, p, label, button, input, a")]
        .filter(node => node.offsetParent)
        .map(node => {
            const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
            return [node.id || node.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        })
        .filter(([, ratio]) => ratio < 4.5);
"""


def work(browser, until):
    server = StandIn()
    try:
        for check in (verify, proves, change, reset, everywhere):
            check(Reader(browser, until), server)
    finally:
        server.shutdown()
