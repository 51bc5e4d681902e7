"""The pages by which people get in, in a real browser, against the gateway: with a script file and without one."""

import email
import email.policy
import urllib.parse

from pages import ENTER, Reader, look

PASSWORD, ANOTHER = "Correct horse 42", "Another horse 43"
ROUTES = """
[[routes]]
name = "app"
upstream = ["http://127.0.0.1:3000"]
[accounts]
registration = "open"
[passwords]
bcrypt_cost = 4
[mail]
from = "Palisade <noreply@example.com>"
transport = "file:./outbox"
"""


class Mailbox:
    def __init__(self, folder, until):
        self.folder, self.until, self.read = folder / "outbox", until, set()

    def next(self, to, subject):
        """The text of the next mail to this address with this in its subject."""
        def found():
            for path in sorted(self.folder.glob("*.eml")) if self.folder.exists() else []:
                message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                if path not in self.read and to in message["To"] and subject in message["Subject"]:
                    self.read.add(path)
                    return message.get_body(("plain",)).get_content()

        return self.until(f"a mail to {to} about {subject!r}", found, 30)

    def link(self, to, subject):
        text = self.next(to, subject)
        link = next(word for word in text.split() if "#token=" in word)
        code = text.split("a code, it is ")[1].split()[0]
        assert link.endswith("#token=" + code), text
        return link, code


def story(run, folder):
    gateway = run.Gateway(folder / "entry", ROUTES, "--demo")
    try:
        mailbox = Mailbox(gateway.folder, run.until)
        with run.Browser(folder) as browser, run.Browser(folder) as other:
            here, telephone = Reader(browser, run.until), Reader(other, run.until)
            registers_and_lands(gateway, mailbox, here)
            finishes_elsewhere(gateway, mailbox, here, telephone)
            forgets(gateway, mailbox, here, telephone)
            works_without_script(gateway, mailbox, telephone)
            many_tabs(gateway, here)
            is_small_and_dark(gateway, here)
    finally:
        gateway.stop()
    for secret in (PASSWORD, ANOTHER, "token="):
        assert secret not in gateway.process.said(), f"{secret!r} is in the log"


def at(reader):
    return reader.js("return location.href")


def is_at(reader, url):
    try:
        reader.until(f"the browser is at {url}", lambda: at(reader) == url, 20)
    except AssertionError as late:
        raise AssertionError(f"{late}; it is at {at(reader)}: {reader.js('return document.body.innerText')}") from late


def submits(reader, **fields):
    """Fills the form of the page in and presses its first button."""
    for name, value in fields.items():
        reader.js("document.getElementById(arguments[0]).value = ''", name)
        reader.types("#" + name, value)
    reader.presses("main form button")


def forgets_everything(reader):
    reader.cdp("Network.clearBrowserCookies")


def registers_and_lands(gateway, mailbox, reader):
    """To the app, and there again after all the steps in between, in one browser: one press on the link is enough."""
    reader.opens(gateway.url + "/report?x=1#/part/7")
    reader.sees("Sign in")
    assert at(reader).endswith("#/part/7") and "part" not in urllib.parse.urlsplit(at(reader)).query, at(reader)
    look(reader, "sign-in")
    reader.js("document.querySelector('main a[href*=\"/register\"]').click()")
    reader.sees("Create the account")
    look(reader, "register")
    submits(reader, email="ann@example.com", password="short")
    reader.sees("at least 8 characters")
    assert reader.js("return document.getElementById('email').value") == "ann@example.com"
    assert reader.js("return document.getElementById('password').value") == ""
    look(reader, "register-wrong")
    submits(reader, password=PASSWORD)
    reader.sees("is on its way")
    look(reader, "check-mail")
    reader.presses("main a[href*='/check-mail']")
    reader.sees("E-mail address")
    assert "ann" not in at(reader) and reader.js("return document.getElementById('email').value") == "ann@example.com"
    look(reader, "check-mail-again")
    link, code = mailbox.link("ann@example.com", "Confirm")
    reader.opens(link)
    reader.sees("Confirm that this address is yours.")
    # Whatever opens the link and runs its script has not used it up, and the token is out of the address.
    assert code not in at(reader) and not reader.js("return document.querySelector('[data-token]').offsetParent")
    look(reader, "verify")
    reader.presses("main form button")
    is_at(reader, gateway.url + "/report?x=1")
    reader.opens(link)
    reader.presses("main form button")
    reader.sees("This link was already used.")
    look(reader, "verify-again")
    # Signed out, it is still the browser that used the link; without its cookies it is a stranger's.
    session = reader.cdp("Network.getCookies")["cookies"]
    assert any(cookie["name"].endswith("palisade-links") for cookie in session), session
    for cookie in session:
        if cookie["name"].endswith("palisade"):
            reader.cdp("Network.deleteCookies", name=cookie["name"], url=gateway.url)
    reader.opens(link)
    reader.presses("main form button")
    reader.sees("This link was already used.")
    forgets_everything(reader)
    reader.opens(link)
    reader.presses("main form button")
    reader.sees("no longer works")
    look(reader, "verify-over")


def finishes_elsewhere(gateway, mailbox, here, telephone):
    forgets_everything(here)
    here.opens(gateway.url + "/auth/pages/register?return_to=/there")
    submits(here, email="bob@example.com", password=PASSWORD)
    here.sees("is on its way")
    link, _ = mailbox.link("bob@example.com", "Confirm")
    telephone.opens(link)
    telephone.sees("Confirm that this address is yours.")
    telephone.presses("main form button")
    telephone.sees("registered in another browser")
    look(telephone, "verify-password")
    username = "return document.querySelector('[autocomplete=username]').value"
    assert telephone.js(username) == "bob@example.com"
    submits(telephone, password=ANOTHER)
    telephone.sees("The password is wrong.")
    telephone.types("#password", PASSWORD)
    telephone.keys(ENTER)
    is_at(telephone, gateway.url + "/there")
    # The first window asks for the letter again, or goes on to the sign-in.
    here.js("document.querySelector('main a[href*=\"/sign-in\"]').click()")
    here.sees("Keep me signed in")
    submits(here, email="bob@example.com", password=ANOTHER)
    here.sees("is wrong")
    look(here, "sign-in-wrong")
    submits(here, password=PASSWORD)
    is_at(here, gateway.url + "/there")


def forgets(gateway, mailbox, here, telephone):
    here.opens(gateway.url + "/auth/pages/forgot?return_to=/after")
    look(here, "forgot")
    submits(here, email="bob@example.com")
    here.sees("choose a new password is on its way")
    link, _ = mailbox.link("bob@example.com", "password")
    forgets_everything(telephone)
    telephone.opens(link)
    telephone.presses("main form button")
    telephone.sees("For the account bob@example.com")
    assert telephone.js("return document.querySelector('[autocomplete=username]').value") == "bob@example.com"
    assert telephone.js("return document.getElementById('new_password').autocomplete") == "new-password"
    look(telephone, "reset")
    submits(telephone, new_password="weak")
    telephone.sees("at least 8 characters")
    submits(telephone, new_password=ANOTHER)
    is_at(telephone, gateway.url + "/after")
    # Every other session has ended.
    here.opens(gateway.url + "/there")
    here.sees("Sign in")


def works_without_script(gateway, mailbox, reader):
    """The code of the letter is typed, so that it is in a form and never in a path or query."""
    forgets_everything(reader)
    reader.cdp("Emulation.setScriptExecutionDisabled", value=True)
    # The driver's own script runs all the same.
    reader.opens(gateway.url + "/start")
    reader.sees("Sign in")
    reader.presses("main a[href*='/register']")
    reader.sees("Create the account")
    reader.types("#email", "cid@example.com")
    reader.types("#password", PASSWORD)
    reader.presses("main form button")
    reader.sees("is on its way")
    link, code = mailbox.link("cid@example.com", "Confirm")
    reader.opens(link)
    reader.sees("It is in the e-mail, below the link.")
    look(reader, "verify-without-script")
    reader.types("#token", code)
    reader.presses("main form button")
    is_at(reader, gateway.url + "/start")
    reader.cdp("Emulation.setScriptExecutionDisabled", value=False)


def many_tabs(gateway, reader):
    """Tabs that were opened after the session ended: each one that is submitted late lands where it wanted."""
    forgets_everything(reader)
    tabs = []
    for number in range(10):
        handle = reader.browser.ask("/window/new", {"type": "tab"})["handle"]
        reader.browser.ask("/window", {"handle": handle})
        reader.opens(f"{gateway.url}/tab/{number}#here")
        reader.sees("Sign in")
        tabs.append(handle)
    for number, handle in enumerate(tabs):
        reader.browser.ask("/window", {"handle": handle})
        # Submitted as it is, or loaded again.
        if number % 3 == 2:
            reader.browser.ask("/refresh", {})
        else:
            submits(reader, email="bob@example.com", password=ANOTHER)
        is_at(reader, f"{gateway.url}/tab/{number}#here")
    cookies = reader.cdp("Network.getAllCookies")["cookies"]
    assert [cookie["name"] for cookie in cookies if "palisade" in cookie["name"]] == ["palisade"], cookies


def is_small_and_dark(gateway, reader):
    forgets_everything(reader)
    reader.cdp("Emulation.setDeviceMetricsOverride", width=320, height=480, deviceScaleFactor=1, mobile=True)
    for scheme in ("light", "dark"):
        reader.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for page in ("sign-in", "register", "check-mail", "verify", "forgot", "reset"):
            reader.opens(f"{gateway.url}/auth/pages/{page}")
            assert reader.js("return document.documentElement.scrollWidth <= 320"), page
            look(reader, f"{page}-{scheme}-320")
    reader.cdp("Emulation.clearDeviceMetricsOverride")
