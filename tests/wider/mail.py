#!/usr/bin/env python3
"""Mail through a real SMTP server: TLS in both ways, sign-in, refusals, and what gets into a message.

`tests/wider/run` starts it with the Python that has aiosmtpd, and the path of the program. Every port is a
free one, every file is in a temporary folder.
"""

import contextlib
import email
import email.policy
import logging
import re
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, SMTP

PALISADE = str(Path(sys.argv[1]).resolve()) if __name__ == "__main__" else None
PASSWORD = "correct-horse-battery-staple"
TOKEN = "sample-that-opens-nothing-0123456789-abcdef"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Certificates:
    """Two authorities, and server certificates by either."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("ours", "theirs"):
            self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                         "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        self.sign("localhost", "ours", "DNS:localhost,IP:127.0.0.1")
        self.sign("elsewhere", "ours", "DNS:elsewhere.test")

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=60)

    def sign(self, name, by, names):
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                     "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial",
                     "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")

    def context(self, name="localhost"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context


class Noting(SMTP):
    """Notes each command with whether it came over TLS."""

    async def smtp_MAIL(self, arg):
        self.event_handler.commands.append(("MAIL", self._over_tls()))
        await super().smtp_MAIL(arg)

    async def smtp_AUTH(self, arg):
        self.event_handler.commands.append(("AUTH", self._over_tls()))
        await super().smtp_AUTH(arg)

    async def smtp_RCPT(self, arg):
        self.event_handler.commands.append(("RCPT", self._over_tls()))
        await super().smtp_RCPT(arg)

    def _over_tls(self):
        return self.transport.get_extra_info("ssl_object") is not None


class Server(Controller):
    """An SMTP server that keeps what it takes; `answers` overrides its words at RCPT and DATA, and the line with AUTH."""

    def __init__(self, implicit=None, starttls=None, sign_in=False, answers=None, port=None, without=()):
        self.commands, self.taken, self.hello = [], [], None
        self.answers = answers or {}

        def authenticator(_server, _session, _envelope, _mechanism, data):
            right = (data.login, data.password) == (b"ann@mail.test", PASSWORD.encode())
            # Not handled: the library writes the refusal.
            return AuthResult(success=right, handled=False)

        options = {"auth_required": True, "authenticator": authenticator} if sign_in else {}
        if without:
            options["auth_exclude_mechanism"] = without
        if implicit:
            # The library does not count TLS from the first byte, and warns of it.
            options["auth_require_tls"] = False
            warnings.simplefilter("ignore")
        super().__init__(self, hostname="127.0.0.1", port=port or free_port(), ssl_context=implicit, tls_context=starttls, **options)
        self.options = {"tls_context": starttls, **options}

    def factory(self):
        return Noting(self, **self.options)

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = self.hello = hostname
        auth = self.answers.get("AUTH")
        return [auth(line) if auth and "AUTH" in line else line for line in responses]

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = self.answers.get("RCPT")
        if answer:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        answer = self.answers.get("DATA")
        if answer:
            return answer(envelope) if callable(answer) else answer
        self.taken.append(envelope)
        return "250 2.0.0 Ok: queued as 4XyZ12"

    def __enter__(self):
        self.start()
        return self

    def goes_away(self):
        if self.server is not None:
            self.stop(no_assert=True)

    def __exit__(self, *_):
        self.goes_away()


class Sender:
    """The program with a configuration of its own."""

    def __init__(self, folder, transport, more="", password=PASSWORD):
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        if password:
            (self.folder / "password").write_text(password + "\n")
            more += '\npassword = "file:password"'
        (self.folder / "config.toml").write_text(
            'public_url = "https://app.example.org"\n[mail]\nfrom = "Example, Inc <noreply@example.org>"\n'
            f'transport = "{transport}"\n{more}\n'
        )

    def run(self, *arguments):
        done = subprocess.run([PALISADE, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        for secret in (PASSWORD, "wrong-password"):
            assert secret not in said, "the password was printed"
        return done.returncode, said

    def test(self, *arguments, to="ann@example.com"):
        return self.run("mail", "test", "--to", to, *arguments)

    def sends(self, *arguments, **options):
        code, said = self.test(*arguments, **options)
        assert code == 0, said
        return said

    def fails(self, *arguments, **options):
        code, said = self.test(*arguments, **options)
        assert code == 1, (code, said)
        return said


def message(envelope):
    return email.message_from_bytes(envelope.content, policy=email.policy.default)


HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]


def by_starttls_with_a_password(folder, certificates):
    with Server(starttls=certificates.context(), sign_in=True) as server:
        sender = Sender(folder, f"smtp://ann%40mail.test@localhost:{server.port}", f'ca = "{certificates.folder}/ours.pem"')
        said = sender.sends("--letter", "reset_password", "--name", "Ännchen Lee")
        assert "250 2.0.0 Ok: queued as 4XyZ12" in said, said
        assert server.commands == [("AUTH", True), ("MAIL", True), ("RCPT", True)], server.commands
        assert server.hello == "app.example.org", server.hello
        [envelope] = server.taken
        assert (envelope.mail_from, envelope.rcpt_tos) == ("noreply@example.org", ["ann@example.com"]), vars(envelope)
        raw = envelope.content.decode("ascii")
        assert all(len(line) <= 998 for line in raw.split("\r\n")) and "\n" not in raw.replace("\r\n", "")
        got = message(envelope)
        assert got.keys() == HEADERS, got.keys()
        assert got["From"] == '"Example, Inc" <noreply@example.org>' and got["To"] == "Ännchen Lee <ann@example.com>", got.items()
        assert got["Auto-Submitted"] == "auto-generated" and got["Message-ID"] in said, said
        assert re.fullmatch(r"<[0-9a-f-]{36}@example\.org>", got["Message-ID"]), got["Message-ID"]
        assert abs(got["Date"].datetime.timestamp() - time.time()) < 120, got["Date"]
        plain, html = list(got.iter_parts())
        assert (got.get_content_type(), plain.get_content_type(), html.get_content_type()) == (
            "multipart/alternative", "text/plain", "text/html")
        link = f"https://app.example.org/auth/pages/reset#token={TOKEN}"
        for part in (plain, html):
            assert link in part.get_content() and "Ännchen Lee" in part.get_content(), part.get_content()
        assert got.get_body(("html", "plain")) is html


def as_old_servers_let_users_sign_in(folder, certificates):
    """Exchange before RFC 2554: `AUTH=LOGIN`, and nothing else."""
    for answers, without in [
        ({"AUTH": lambda line: line.replace("AUTH ", "AUTH=")}, ["PLAIN"]),
        ({"AUTH": lambda line: line.replace("AUTH ", "AUTH=")}, ["LOGIN"]),
        ({"AUTH": str.lower}, ["PLAIN"]),
        ({}, ["PLAIN"]),
    ]:
        with Server(starttls=certificates.context(), sign_in=True, answers=answers, without=without) as server:
            sender = Sender(folder, f"smtp://ann%40mail.test@localhost:{server.port}", f'ca = "{certificates.folder}/ours.pem"')
            sender.sends()
            assert server.commands == [("AUTH", True), ("MAIL", True), ("RCPT", True)], server.commands
            assert len(server.taken) == 1


def which_end_must_change_is_said(folder, certificates):
    only = {"AUTH": lambda line: re.sub("AUTH .*", "AUTH CRAM-MD5", line)}
    for sign_in, answers, words in [
        (True, only, ["CRAM-MD5", "PLAIN and LOGIN"]),
        (False, {}, ["take the user out of mail.transport"]),
    ]:
        with Server(starttls=certificates.context(), sign_in=sign_in, answers=answers, without=["LOGIN", "PLAIN"]) as server:
            sender = Sender(folder, f"smtp://ann%40mail.test@localhost:{server.port}", f'ca = "{certificates.folder}/ours.pem"')
            said = sender.fails()
            assert all(word in said for word in words), said
            assert server.taken == [] and server.commands == [], server.commands


def by_implicit_tls(folder, certificates):
    with Server(implicit=certificates.context(), sign_in=True) as server:
        sender = Sender(folder, f"smtps://ann@mail.test@127.0.0.1:{server.port}", f'ca = "{certificates.folder}/ours.pem"')
        sender.sends()
        assert server.commands == [("AUTH", True), ("MAIL", True), ("RCPT", True)], server.commands
        assert len(server.taken) == 1


def a_certificate_that_is_not_the_servers_is_refused(folder, certificates):
    theirs, ours = (f'ca = "{certificates.folder}/{name}.pem"' for name in ("theirs", "ours"))
    for name, more in [("localhost", theirs), ("localhost", ""), ("elsewhere", ours)]:
        for implicit in (False, True):
            context = certificates.context(name)
            with Server(implicit=context) if implicit else Server(starttls=context) as server:
                scheme = "smtps" if implicit else "smtp"
                sender = Sender(folder, f"{scheme}://ann@localhost:{server.port}", more)
                said = sender.fails()
                assert "certificate" in said.lower(), said
                assert (server.commands, server.taken) == ([], []), (name, more, server.commands)


def a_server_without_starttls_gets_nothing(folder, certificates):
    with Server() as server:
        sender = Sender(folder, f"smtp://ann@localhost:{server.port}", f'ca = "{certificates.folder}/ours.pem"')
        said = sender.fails()
        assert "STARTTLS" in said and "cleartext" in said, said
        assert (server.commands, server.taken) == ([], []), server.commands


def cleartext_only_on_loopback_and_when_asked_for(folder, _certificates):
    with Server() as server:
        Sender(folder, f"smtp://127.0.0.1:{server.port}?tls=none", password=None).sends()
        assert server.commands == [("MAIL", False), ("RCPT", False)] and len(server.taken) == 1
        code, said = Sender(folder, f"smtp://mail.example.org:{server.port}?tls=none", password=None).run("check")
        assert code == 1 and "config.toml:4: mail.transport:" in said, said


def a_wrong_password_is_told_and_not_shown(folder, certificates):
    with Server(starttls=certificates.context(), sign_in=True) as server:
        sender = Sender(folder, f"smtp://ann@mail.test@localhost:{server.port}", f'ca = "{certificates.folder}/ours.pem"',
                        password="wrong-password")
        said = sender.fails()
        assert "sign-in" in said and "535" in said and "try again" in said, said
        assert server.taken == []


def refusals_are_told_apart(folder, _certificates):
    quoting = lambda envelope: "554 5.7.1 blocked: " + re.search(r"https://\S+#token=\S+", envelope.content.decode()).group()
    for answers, words in [
        ({"RCPT": "550 5.1.1 no such user"}, ["refused for good", "550", "5.1.1 no such user"]),
        ({"RCPT": "451 4.7.1 greylisted"}, ["try again", "451", "4.7.1 greylisted"]),
        ({"DATA": "552 too large"}, ["refused for good", "552"]),
        ({"DATA": "452 no space"}, ["try again", "452"]),
        ({"DATA": "554 \x1b[31mred\x07 " + "x" * 400}, ["refused for good", "554"]),
        ({"DATA": quoting}, ["refused for good", "5.7.1 blocked: https://app.example.org/auth/pages/reset#token=…"]),
    ]:
        with Server(answers=answers) as server:
            said = Sender(folder, f"smtp://127.0.0.1:{server.port}?tls=none", password=None).fails("--letter", "reset_password")
            assert all(word in said for word in words), (words, said)
            assert TOKEN not in said and "\x1b" not in said and "\x07" not in said and len(said) < 500, said
            assert server.taken == []


def nobody_is_there(folder, _certificates):
    said = Sender(folder, f"smtp://127.0.0.1:{free_port()}?tls=none", password=None).fails()
    assert "no mail can be delivered now" in said and "refused" in said, said


def nothing_is_believed_that_was_said_before_tls(folder, certificates):
    """Answers put behind the server's last cleartext line must not pass for answers over TLS."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = []

    def serve():
        with contextlib.suppress(OSError, ssl.SSLError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.test\r\n")
                connection.recv(1000)
                connection.sendall(b"250-mail.test\r\n250 STARTTLS\r\n")
                connection.recv(1000)
                connection.sendall(b"220 go ahead\r\n250-mail.test\r\n250 AUTH PLAIN\r\n")
                connection.settimeout(10)
                with certificates.context().wrap_socket(connection, server_side=True) as encrypted:
                    seen.append(encrypted.recv(1000))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    sender = Sender(folder, f"smtp://ann@localhost:{listener.getsockname()[1]}", f'ca = "{certificates.folder}/ours.pem"')
    said = sender.fails()
    thread.join(20)
    listener.close()
    assert seen == [] and "STARTTLS" in said, (seen, said)


def no_name_and_no_address_makes_a_header_or_a_recipient(folder, _certificates):
    with Server() as server:
        sender = Sender(folder, f"smtp://127.0.0.1:{server.port}?tls=none", password=None)
        for to in ["ann@example.com\r\nBcc: x@evil.test", "ann@example.com,x@evil.test", "ann@example.com> RCPT TO:<x@evil.test",
                   "\"a b\"@example.com", "ann@[127.0.0.1]", "ann@example.com\nDATA", "änn@example.com", ""]:
            sender.fails(to=to)
        for name in ["Ann\r\nBcc: x@evil.test", "Ann\u202e", "Ann\u2028"]:
            sender.fails("--name", name)
        assert server.commands == [] and server.taken == []
        for name in ["Ann>, Bob <x@evil.test", "Ann, Bob", '"', "Ann\\", "=?utf-8?q?=0D=0ABcc:_x?=", "李, Ännchen", "x@evil.test",
                     "Read https://evil.test", "Ann (evil)", "a" * 200]:
            sender.sends("--name", name)
            envelope = server.taken.pop()
            got = message(envelope)
            assert envelope.rcpt_tos == ["ann@example.com"] and server.taken == [], (name, envelope.rcpt_tos)
            assert got.keys() == HEADERS, (name, got.keys())
            addresses = [address.addr_spec for address in got["To"].addresses]
            assert addresses == ["ann@example.com"], (name, str(got["To"]))
            assert "evil.test" not in got.as_string(), name


def files_are_whole_and_private(folder, _certificates):
    sender = Sender(folder, "file:./out/box", password=None)
    said = sender.sends("--letter", "verify_email")
    [file] = (sender.folder / "out/box").iterdir()
    assert file.suffix == ".eml" and str(file.name) in said, said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, oct(file.stat().st_mode)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert f"https://app.example.org/auth/pages/verify#token={TOKEN}\r\n" in file.read_bytes().decode()


def a_wrong_template_stops_the_check(folder, _certificates):
    sender = Sender(folder, "log", 'templates = "own"', password=None)
    (sender.folder / "own").mkdir()
    (sender.folder / "own/welcome.txt").write_text("Subject: Hi\n\n{{ nam }}\n")
    code, said = sender.run("check")
    assert code == 1 and "own/welcome.txt:3: mail.templates: found undefined value" in said, said
    (sender.folder / "own/welcome.txt").write_text("Subject: Hi {{ service }}\n\nWelcome!\n")
    code, said = sender.run("check")
    assert code == 0 and "for development" in said, said
    said = sender.sends()
    assert 'subject="Hi Example, Inc"' in said, said


CHECKS = [
    by_starttls_with_a_password,
    as_old_servers_let_users_sign_in,
    which_end_must_change_is_said,
    by_implicit_tls,
    a_certificate_that_is_not_the_servers_is_refused,
    a_server_without_starttls_gets_nothing,
    cleartext_only_on_loopback_and_when_asked_for,
    a_wrong_password_is_told_and_not_shown,
    refusals_are_told_apart,
    nobody_is_there,
    nothing_is_believed_that_was_said_before_tls,
    no_name_and_no_address_makes_a_header_or_a_recipient,
    files_are_whole_and_private,
    a_wrong_template_stops_the_check,
]


def main():
    failed = 0
    # Handshakes that are refused are what some of the checks are about.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL + 1)
    with tempfile.TemporaryDirectory(prefix="palisade-mail-") as name:
        folder = Path(name)
        (folder / "certificates").mkdir()
        certificates = Certificates(folder / "certificates")
        for check in CHECKS:
            title, begun = check.__name__.replace("_", " "), time.monotonic()
            try:
                check(folder, certificates)
                print(f"        ok      {title} ({time.monotonic() - begun:.1f}s)", flush=True)
            except Exception:  # any failure is one, and the others still run
                failed += 1
                print(f"        FAILED  {title}\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
