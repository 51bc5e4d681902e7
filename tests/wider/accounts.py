"""The story of an account, as its owner lives it: over a real mail server with TLS and in a real browser.

The mails are read as a person would read them, HTML and text, and the links in them are opened.
"""

import concurrent.futures
import email
import email.policy
import html.parser
import http.client
import json
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import mail
from pages import Reader

PASSWORD, ANOTHER = "Correct horse 42", "Another horse 43"
ANN = "ann@example.com"
BUTTON = "main form button"


class Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if tag == "a" and name == "href"]


class Mailbox:
    """What the server took, one mail after the other."""

    def __init__(self, server, until):
        self.server, self.until, self.read = server, until, 0

    def next(self, to, subject, seconds=30):
        def taken():
            return self.server.taken[self.read:]

        envelope = self.until(f"a mail about {subject!r}", taken, seconds)[0]
        self.read += 1
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert envelope.rcpt_tos == [to], envelope.rcpt_tos
        assert subject in message["Subject"], message["Subject"]
        text = message.get_body(("plain",)).get_content()
        html_part = message.get_body(("html",)).get_content()
        assert "<" not in text.replace("<https://", "").replace("<http://", ""), text
        return text, html_part

    def link(self, to, subject, page):
        text, html_part = self.next(to, subject)
        in_html = [link for link in Links(html_part).found if "#token=" in link]
        in_text = [word.strip("<>") for word in text.split() if "#token=" in word]
        assert len(set(in_html)) == 1 and set(in_html) == set(in_text), (in_html, in_text)
        assert urllib.parse.urlsplit(in_html[0]).path == page, in_html
        return in_html[0]

    def is_empty(self):
        assert len(self.server.taken) == self.read, self.server.taken[self.read].content


class Api:
    def __init__(self, gateway):
        self.gateway = gateway

    def ask(self, method, path, body=None, token=None, agent="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"):
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        headers = {"User-Agent": agent, "Host": f"localhost:{self.gateway.port}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def good(self, *arguments, status=200, **named):
        got, document = self.ask(*arguments, **named)
        assert got == status, (arguments[:2], got, document)
        return document

    def refused(self, code, *arguments, **named):
        got, document = self.ask(*arguments, **named)
        assert got >= 400 and document["code"] == code, (arguments[:2], got, document)

    def login(self, email=ANN, password=PASSWORD, **named):
        return self.good("POST", "/auth/login", {"email": email, "password": password}, **named)

    def app(self, token):
        return self.ask("GET", "/", token=token)


def config(folder, port):
    return f"""
[[routes]]
name = "app"
upstream = ["http://127.0.0.1:3000"]
[accounts]
registration = "open"
[passwords]
bcrypt_cost = 4
[mail]
from = "Palisade <noreply@example.com>"
transport = "smtp://localhost:{port}"
ca = "{folder / 'certificates' / 'ours.pem'}"
"""


def story(run, folder):
    (folder / "certificates").mkdir()
    certificates = mail.Certificates(folder / "certificates")
    with mail.Server(starttls=certificates.context()) as server:
        gateway = run.Gateway(folder / "story", config(folder, server.port), "--demo")
        try:
            api, mailbox = Api(gateway), Mailbox(server, run.until)
            with run.Browser(folder) as browser:
                reader = Reader(browser, run.until)
                registers(api, mailbox, reader)
                registers_here(api, mailbox, reader)
                signs_in(api, mailbox)
                rotates(api, gateway)
                forgets(api, mailbox, reader)
                changes_address(api, mailbox, reader)
            signs_out(api)
            assert all(over_tls for _, over_tls in server.commands), server.commands
            mail_waits_for_its_server(api, server, certificates, run.until)
        finally:
            code = gateway.stop()
    assert code == 0, gateway.process.said()
    said = gateway.process.said()
    for secret in (PASSWORD, ANOTHER, "#token="):
        assert secret not in said, f"{secret!r} is in the log"


def registers(api, mailbox, reader):
    wish = {"email": "Ann@EXAMPLE.com", "password": PASSWORD, "name": "Ann"}
    weak = api.ask("POST", "/auth/register", {**wish, "password": "short"})
    assert weak[0] == 422 and "too_short" in [broken["rule"] for broken in weak[1]["violations"]], weak
    first = api.good("POST", "/auth/register", wish, status=202)
    link = mailbox.link(ANN, "Confirm", "/auth/pages/verify")
    api.refused("invalid_credentials", "POST", "/auth/login", {"email": ANN, "password": PASSWORD})
    # A program registered, so this browser has nothing to show for the password.
    reader.opens(link)
    reader.presses(BUTTON)
    reader.sees("registered in another browser")
    reader.types("#password", ANOTHER)
    reader.presses(BUTTON)
    reader.sees("The password is wrong.")
    reader.types("#password", PASSWORD)
    reader.presses(BUTTON)
    signed_in(reader)
    assert "token" not in reader.js("return location.href")
    mailbox.next(ANN, "ready")
    reader.opens(link)
    reader.presses(BUTTON)
    reader.sees("already used")
    again = api.good("POST", "/auth/register", wish, status=202)
    assert again == first, (first, again)
    mailbox.next(ANN, "have an account")


def registers_here(api, mailbox, reader):
    """In a browser, on a page of the gateway's own origin: one press is enough, once its registration is the one that counts."""
    page = f"http://localhost:{api.gateway.port}/auth/pages/register"

    def sends(address, password, form=None):
        reader.opens(page)
        if form:
            reader.js("document.querySelector('[name=form_id]').value = arguments[0]", form)
        reader.types("#email", address)
        reader.types("#password", password)
        reader.presses(BUTTON)
        reader.sees("is on its way")

    reader.cdp("Network.clearBrowserCookies")
    sends("cid@example.com", PASSWORD, "a form of Cid's")
    sends("cid@example.com", PASSWORD, "a form of Cid's")
    assert "registration" not in reader.js("return document.cookie"), "no script sees it"
    link = mailbox.link("cid@example.com", "Confirm", "/auth/pages/verify")
    mailbox.is_empty()
    reader.opens(link)
    reader.presses(BUTTON)
    signed_in(reader)
    mailbox.next("cid@example.com", "ready")
    api.login("cid@example.com", PASSWORD)
    mailbox.next("cid@example.com", "sign-in")

    # A stranger was first, with a password and a name of their own; Dan registers here, and is asked all the same.
    stranger = {"email": "dan@example.com", "password": ANOTHER, "name": "Not Dan"}
    api.good("POST", "/auth/register", stranger, status=202)
    first = mailbox.link("dan@example.com", "Confirm", "/auth/pages/verify")
    reader.cdp("Network.clearBrowserCookies")
    sends("dan@example.com", PASSWORD)
    link = mailbox.link("dan@example.com", "Confirm", "/auth/pages/verify")
    assert link == first, "the live link, once more"
    reader.opens(link)
    reader.presses(BUTTON)
    reader.sees("registered in another browser")
    reader.types("#password", PASSWORD)
    reader.presses(BUTTON)
    reader.sees("The password is wrong.")
    reader.presses("[name=choose]")
    reader.sees("At least 8 characters")
    reader.types("#new_password", PASSWORD)
    reader.presses(BUTTON)
    signed_in(reader)
    mailbox.next("dan@example.com", "ready")
    api.refused("invalid_credentials", "POST", "/auth/login", {"email": "dan@example.com", "password": ANOTHER})
    assert api.login("dan@example.com", PASSWORD)["user"]["name"] is None
    mailbox.next("dan@example.com", "sign-in")


def signed_in(reader):
    reader.until("the account is shown", lambda: reader.js("return location.pathname") == "/auth/pages/account", 20)


def signs_in(api, mailbox):
    tokens = api.login()
    # The link was opened in Chromium, which signed in there.
    mailbox.next(ANN, "sign-in")
    status, page = api.app(tokens["access_token"])
    assert status == 200 and "<h1>Hello, Ann</h1>" in page, page
    sessions = api.good("GET", "/auth/sessions", token=tokens["access_token"])["sessions"]
    assert [s["device"] for s in sessions if s["current"]] == ["Firefox on Linux"] and len(sessions) == 2, sessions
    mailbox.is_empty()
    other = api.login(agent="curl/8.5.0")
    text, _ = mailbox.next(ANN, "sign-in")
    assert "curl" in text and "127.0.0.1" in text, text
    sessions = api.good("GET", "/auth/sessions", token=tokens["access_token"])["sessions"]
    theirs = next(s["id"] for s in sessions if s["device"].startswith("curl"))
    api.good("DELETE", f"/auth/sessions/{theirs}", token=tokens["access_token"], status=204)
    assert api.app(other["access_token"])[0] == 401
    assert api.app(tokens["access_token"])[0] == 200


def rotates(api, gateway):
    tokens = api.login()
    first = {"refresh_token": tokens["refresh_token"]}
    with concurrent.futures.ThreadPoolExecutor(50) as many:
        answers = list(many.map(lambda _: api.good("POST", "/auth/refresh", first), range(50)))
    successors = {answer["refresh_token"] for answer in answers}
    assert len(successors) == 1, len(successors)
    newest = api.good("POST", "/auth/refresh", {"refresh_token": successors.pop()})
    # After a restart the rotated token is still rotated.
    gateway.restart()
    api.refused("invalid_refresh_token", "POST", "/auth/refresh", first)
    api.refused("invalid_refresh_token", "POST", "/auth/refresh", {"refresh_token": newest["refresh_token"]})
    assert api.app(newest["access_token"])[0] == 401

    def noted():
        shown = json.loads(gateway.cli("users", "show", ANN, "--json"))
        return [event for event in shown["events"] if event["action"] == "refresh_reuse"]

    events = until_true(noted)
    assert events[0]["outcome"] == "denied" and events[0]["address"] == "127.0.0.1", events


def until_true(ask):
    # The events of a request are written just after its answer.
    for _ in range(100):
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError("not within ten seconds")


def forgets(api, mailbox, reader):
    tokens = api.login()
    known = api.good("POST", "/auth/password-resets", {"email": ANN}, status=202)
    unknown = api.good("POST", "/auth/password-resets", {"email": "nobody@example.com"}, status=202)
    assert known == unknown
    link = mailbox.link(ANN, "password", "/auth/pages/reset")
    reader.opens(link)
    reader.presses(BUTTON)
    reader.sees("At least 8 characters")
    reader.types("#new_password", "weak")
    reader.presses(BUTTON)
    reader.sees("at least 8 characters")
    reader.types("#new_password", ANOTHER)
    reader.presses(BUTTON)
    signed_in(reader)
    mailbox.next(ANN, "password")
    assert api.app(tokens["access_token"])[0] == 401
    api.refused("invalid_refresh_token", "POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]})
    api.refused("invalid_credentials", "POST", "/auth/login", {"email": ANN, "password": PASSWORD})
    api.login(password=ANOTHER)


def changes_address(api, mailbox, reader):
    token = api.login(password=ANOTHER)["access_token"]
    api.refused("invalid_request", "PATCH", "/auth/me", {"email": "ann@new.example"}, token=token)
    wish = {"email": "ann@new.example", "current_password": ANOTHER}
    changed = api.good("PATCH", "/auth/me", wish, token=token)
    assert (changed["email"], changed["pending_email"]) == (ANN, "ann@new.example"), changed
    letters = {}
    for _ in range(2):
        envelope = mailbox.until("both letters", lambda: mailbox.server.taken[mailbox.read:], 30)[0]
        letters[envelope.rcpt_tos[0]] = mailbox.read
        mailbox.read += 1
    assert set(letters) == {ANN, "ann@new.example"}, letters
    message = email.message_from_bytes(mailbox.server.taken[letters["ann@new.example"]].content, policy=email.policy.default)
    link = next(link for link in Links(message.get_body(("html",)).get_content()).found if "#token=" in link)
    reader.opens(link)
    # The mailbox alone is not enough: only the owner of this account changes its address.
    reader.cdp("Network.clearBrowserCookies")
    reader.presses(BUTTON)
    reader.sees("Enter the password of that account")
    reader.types("#password", ANOTHER)
    reader.presses(BUTTON)
    reader.sees("Your address is confirmed.")
    mailbox.next(ANN, "address")
    api.refused("invalid_credentials", "POST", "/auth/login", {"email": ANN, "password": ANOTHER})
    # What its tokens say is no longer true.
    assert api.app(token)[0] == 401
    api.login("ann@new.example", ANOTHER)


def signs_out(api):
    tokens = api.login("ann@new.example", ANOTHER)
    assert api.app(tokens["access_token"])[0] == 200
    api.good("POST", "/auth/logout", token=tokens["access_token"], status=204)
    assert api.app(tokens["access_token"])[0] == 401
    api.refused("invalid_refresh_token", "POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]})


def mail_waits_for_its_server(api, server, certificates, until):
    """The server is away for a while: nothing is refused, and the mail comes once it is back."""
    port = server.port
    server.goes_away()
    api.good("POST", "/auth/register", {"email": "bob@example.com", "password": PASSWORD}, status=202)
    with mail.Server(starttls=certificates.context(), port=port) as back:
        until("the mail that waited", lambda: back.taken, 90)
        assert back.taken[0].rcpt_tos == ["bob@example.com"]


def description(run, folder):
    """schemathesis asks everything that both descriptions offer, and more; nothing may break or be undescribed."""
    gateway = run.Gateway(folder / "description", """
[[routes]]
name = "app"
upstream = ["http://127.0.0.1:3000"]
[passwords]
bcrypt_cost = 4
[limits]
enabled = false
[mail]
transport = "file:./outbox"
""")
    try:
        api = Api(gateway)
        made = json.loads(gateway.cli("users", "add", ANN, "--verified", "--generate-password", "--json"))
        token = lambda: api.login(ANN, made["password"])["access_token"]
        # What ends the session of the token comes last, so that the others are asked with a good one.
        endings = ["POST /logout", "DELETE /sessions", "DELETE /sessions/{id}", "PUT /me/password", "DELETE /me"]
        patterns = "^(" + "|".join(name.replace("{", r"\{").replace("}", r"\}") for name in endings) + ")$"
        credential = (gateway.folder / "data" / "admin.token").read_text().strip()
        native, admin = (gateway.url + "/auth/openapi.json", gateway.url + "/auth"), (gateway.admin + "/admin/v1/openapi.json", gateway.admin)
        for (document, base), bearer, choice in (
            (native, token, ["--exclude-name-regex", patterns]),
            (native, token, ["--include-name-regex", patterns]),
            (admin, lambda: credential, []),
        ):
            command = [
                Path(sys.executable).parent / "st", "run", document, "--url", base,
                "--header", f"Authorization: Bearer {bearer()}", *choice, "--max-examples", "25", "--seed", "7",
                "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                "--request-timeout", "30", "--no-color",
            ]
            done = subprocess.run(command, cwd=gateway.folder, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
            for line in done.stdout.splitlines():
                if "generated" in line or "Operations" in line or "Test cases" in line:
                    print("        " + line.strip(), flush=True)
    finally:
        gateway.stop()
