"""git as it is, against `git http-backend` as it is, through a route that leaves `Authorization` to the app.

The app in front of `git http-backend` is what Gitea and others are in front of theirs: it asks for a password (scheme
Basic) and runs the backend for the one who knows it. git waits for a challenge before it sends a password, and has to get
it from the gateway, because its first request has no credential and so does not reach the app.
"""

import base64
import http.client
import http.server
import json
import os
import subprocess
import threading
import urllib.parse

ROUTES = """[log]
audit = "file:audit.log"
[[routes]]
name = "git"
match = {{ path = "/" }}
upstream = ["http://127.0.0.1:{port}"]
authorization = "app"
without_session = "app"
token = {{ header = "X-Gate-Token" }}
"""

USER, PASSWORD = "ann", "s3cret: with colon"


def app(projects, seen):
    """A server of the repositories below `projects` for one account; `seen` gets the `Authorization` of each request, and
    the subject that the gateway names."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def body(self):
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def answer(self, status, fields, body):
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            body, subject = self.body(), self.headers.get("X-Auth-Subject")
            credential = self.headers.get("Authorization", "")
            seen.append((credential, subject))
            known = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if credential != known and not subject:
                return self.answer(401, [("WWW-Authenticate", 'Basic realm="repositories"')], b"")
            target = urllib.parse.urlsplit(self.path)
            environment = {
                "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(projects), "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command, "PATH_INFO": urllib.parse.unquote(target.path), "QUERY_STRING": target.query,
                "REMOTE_USER": USER, "REMOTE_ADDR": "127.0.0.1", "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)), "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }
            done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environment, timeout=60)
            head, _, rest = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
            status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
            self.answer(status, [field for field in fields if field[0] != "Status"], rest)

        do_POST = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def story(run, folder):
    home, projects, seen = folder / "git-home", folder / "git-projects", []
    home.mkdir()
    projects.mkdir()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
        "GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.com",
        "GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.com", "no_proxy": "*",
    }

    def git(*arguments, at=home, works=True, **more):
        done = subprocess.run(["git", *arguments], cwd=at, env={**environment, **more}, capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) == works, f"git {arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    git("init", "--quiet", "--bare", "--initial-branch=main", str(projects / "notes.git"))
    git("config", "http.receivepack", "true", at=projects / "notes.git")
    server = app(projects, seen)
    port, certificate, key = run.free_port(), folder / "git-gateway.pem", folder / "git-gateway.key"
    subprocess.run(
        [run.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60)
    environment["GIT_SSL_CAINFO"] = str(certificate)
    gateway = run.Gateway(
        folder / "git-gateway", ROUTES.format(port=server.server_port), public=f"https://localhost:{port}",
        server=f'tls = {{ listen = "127.0.0.1:{port}", cert = "{certificate}", key = "{key}" }}\n')
    try:
        url = f"https://localhost:{port}/notes.git"
        account = f"{USER}:{urllib.parse.quote(PASSWORD, safe='')}@"
        right, wrong = (url.replace("//", f"//{who}", 1) for who in (account, f"{USER}:wrong@"))

        # Without a password, and with a wrong one: the gateway refuses the first, the app the second.
        assert "could not read Username" in git("clone", url, "anonymous", works=False)
        assert seen == [], seen
        assert "Authentication failed" in git("clone", wrong, "refused", works=False)
        assert seen and all(credential.startswith("Basic ") for credential, _ in seen), seen

        # With the right one, from the URL: a clone, a push with a chunked body, a fetch of what another clone has pushed.
        git("clone", "--quiet", right, "one")
        one = home / "one"
        for name, size in (("small", 10), ("large", 3_000_000)):
            (one / name).write_bytes(os.urandom(size))
            git("add", name, at=one)
            git("commit", "--quiet", "--message", name, at=one)
            git("push", "--quiet", "origin", "HEAD:main", at=one)
        git("clone", "--quiet", "--branch", "main", right, "two")
        assert (home / "two/large").read_bytes() == (one / "large").read_bytes()

        # From a credential helper, which git asks only after a challenge.
        helper = f"!f() {{ echo username={USER}; echo 'password={PASSWORD}'; }}; f"
        listed = git("-c", f"credential.helper={helper}", "ls-remote", url)
        assert "refs/heads/main" in listed, listed
        assert not any(subject for _, subject in seen), "no one has a session"

        # A caller of the gateway comes beside all that, and git shows its token in a field of its own.
        token = gateway.cli("token", "mint", "--sub", "robot")
        before = len(seen)
        git("-c", f"http.extraHeader=X-Gate-Token: {token}", "ls-remote", url)
        assert all(entry == ("", "robot") for entry in seen[before:]) and len(seen) > before, seen[before:]

        # A browser is not asked for the app's password: it would open a dialog of its own.
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        connection.request("GET", "/notes.git/info/refs", headers={"Host": f"localhost:{gateway.port}", "User-Agent": "Mozilla/5.0", "Accept": "*/*"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 401 and "Basic" not in (answer.getheader("WWW-Authenticate") or ""), answer.headers

        # All of it is one client in the audit log, in one line.
        def audited():
            lines = (gateway.folder / "audit.log").read_text().splitlines()
            return [event for event in map(json.loads, lines) if event["action"] == "left_to_app"]

        run.until("the requests are audited", audited)
        assert [event["reason"] for event in audited()] == ["first_request"], audited()
        assert gateway.stop() == 0
        total = audited()[1:]
        assert [event["reason"] for event in total] == ["total_of_client"], total
        passed = [credential for credential, subject in seen if credential and not subject]
        assert total[0]["details"]["requests"] == len(passed), (total, len(passed))
        assert PASSWORD not in gateway.process.said() and account not in gateway.process.said()
    finally:
        gateway.stop()
        server.shutdown()
