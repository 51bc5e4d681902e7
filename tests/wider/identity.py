"""Apps that take the word of a proxy for who a person is, as docs/identity-headers.md sets them up: Django and JupyterHub as
they are; Grafana and Gitea, which no registry of packages has, by stand-ins that read the fields as those two do.
`make deps-wider` installs the former.
"""

import base64
import http.cookiejar
import http.server
import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

ISSUER = "https://people.test"
# Every spelling of the fields that a server might fold into them.
SPOOFED = {"Remote-User": "root", "remote_user": "root", "Remote.User": "root", "REMOTE_USER": "root", "Remote_Email": "root@example.com",
           "Remote-Groups": "admins", "remote_groups": "admins", "X-WEBAUTH-USER": "root", "X-Forwarded-User": "root"}

ROUTES = """
[[issuers]]
issuer = "{issuer}"
jwks = "file:{jwks}"
audiences = ["api"]
algorithms = ["EdDSA"]
{routes}
"""

ROUTE = """
[[routes]]
name = "{name}"
match = {{ path = "{path}" }}
upstream = ["http://127.0.0.1:{port}"]
issuers = ["{issuer}"]
{keys}
"""

HUB_COOKIES = 'app_cookies = ["jupyterhub-hub-login", "jupyterhub-session-id"]'
PRESET = 'headers = { preset = "remote-user", user = "username" }'
# The field is the hub's, people come with a token in another one, and the hub judges programs that have none.
LEFT_TO_HUB = """authorization = "app"
without_session = "app"
token = { header = "X-Gate-Token" }"""
ROBOT = "c0ffee00" * 8


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An issuer of people's tokens, of which OpenSSL does the signing."""

    def __init__(self, run, folder):
        self.openssl, self.folder, self.key = run.program("openssl"), folder, folder / "issuer.pem"
        self.call("genpkey", "-algorithm", "ed25519", "-out", str(self.key))
        public = self.call("pkey", "-in", str(self.key), "-pubout", "-outform", "DER")[-32:]
        self.jwks = folder / "issuer.json"
        self.jwks.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "alg": "EdDSA", "use": "sig", "x": b64(public)}]}))

    def call(self, *arguments):
        return subprocess.run([self.openssl, *arguments], check=True, capture_output=True).stdout

    def token(self, **claims):
        claims = {"iss": ISSUER, "aud": "api", "sub": "u-1", "exp": int(time.time()) + 3600, **claims}
        text = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "EdDSA", "kid": "1"}, claims))
        signed = self.folder / "signed"
        signed.write_text(text)
        return f"{text}.{b64(self.call('pkeyutl', '-sign', '-rawin', '-inkey', str(self.key), '-in', str(signed)))}"


class Person:
    """A client with a token of a person, or with none, that keeps the app's cookies and follows where it is sent."""

    def __init__(self, url, token=None, cookies=None):
        self.url = url
        self.cookies = http.cookiejar.CookieJar() if cookies is None else cookies
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies))
        self.fields = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, path, spoofed=False):
        """Status and text of an answer. Redirects carry the fields along."""
        fields = {**self.fields, **(SPOOFED if spoofed else {})}
        request = urllib.request.Request(self.url + path, headers=fields)
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()


class StandIn(http.server.ThreadingHTTPServer):
    """Answers in JSON what `judge` makes of the fields of a request: the user that the app would take it for."""

    daemon_threads = True

    def __init__(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                user = server.judge(self.headers)
                body = json.dumps(user).encode()
                self.send_response(401 if user is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class GrafanaStandIn(StandIn):
    """Stands in for Grafana with [auth.proxy] enabled, header_name = Remote-User, headers = "Email:Remote-Email
    Groups:Remote-Groups" and auto_sign_up: a field that is empty is none, and a list is split at commas and white space,
    quotes are taken off, and what begins with `[` is JSON."""

    @staticmethod
    def listed(text):
        if text.strip().startswith("["):
            return json.loads(text)
        return [item.strip('"') for item in re.findall(r'"[^"]+"|[^,\t\n\v\f\r ]+', text)]

    def judge(self, fields):
        login = fields.get("Remote-User", "")
        if not login:
            return None
        return {"login": login, "email": fields.get("Remote-Email", ""), "groups": self.listed(fields.get("Remote-Groups", ""))}


class GiteaStandIn(StandIn):
    """Stands in for Gitea with ENABLE_REVERSE_PROXY_AUTHENTICATION, _AUTO_REGISTRATION and _EMAIL, and the names of the
    preset: a user by name in any case, else a new one of letters, digits, `-`, `_` and `.`; without a name the user whose
    address the other field has."""

    def __init__(self):
        self.users = {"root": "root@example.com"}
        super().__init__()

    def judge(self, fields):
        name, address = fields.get("Remote-User", "").strip(), fields.get("Remote-Email", "").strip()
        if not name:
            return next(({"name": known} for known, own in self.users.items() if address and own == address), None)
        if name.lower() not in self.users:
            if not re.fullmatch(r"[A-Za-z0-9]([-_.]?[A-Za-z0-9])*", name):
                return None
            self.users[name.lower()] = address
        return {"name": name.lower()}


def story(run, folder):
    installed = run.ROOT / "target/wider/identity/bin"
    if not (installed / "jupyterhub").exists():
        raise AssertionError("Django and JupyterHub are not installed: `make deps-wider` says how")
    folder = folder / "identity"
    folder.mkdir()
    issuer = Issuer(run, folder)
    here = run.ROOT / "tests/wider/identity"
    grafana, gitea = GrafanaStandIn(), GiteaStandIn()
    processes = []
    try:
        django = started_django(run, folder, here, installed, processes)
        hubs = {name: started_hub(run, folder, here, installed, processes, name) for name in ("short", "package")}
        told = lambda more: f'headers = {{ preset = "remote-user", user = "username"{more} }}'
        routes = [
            ("django", "/django", django, PRESET),
            ("visitors", "/visitors", django, f'auth = "optional"\n{PRESET}'),
            ("grafana", "/grafana", grafana.server_port, told(', groups_only = ["staff", "admins"]')),
            ("gitea", "/gitea", gitea.server_port, PRESET),
        ]
        gateway = run.Gateway(folder / "gateway", ROUTES.format(issuer=ISSUER, jwks=issuer.jwks, routes="".join(
            ROUTE.format(name=name, path=path, port=port, keys=keys, issuer=ISSUER) for name, path, port, keys in routes)))
        try:
            django_knows_people(gateway, issuer)
            grafana_knows_people(gateway, issuer)
            gitea_knows_people(gateway, issuer, gitea)
        finally:
            gateway.stop()
        for name, port in hubs.items():
            route = ROUTE.format(name="hub", path="/", port=port, keys=f"{PRESET}\n{HUB_COOKIES}", issuer=ISSUER)
            gateway = run.Gateway(folder / f"gateway-{name}", ROUTES.format(issuer=ISSUER, jwks=issuer.jwks, routes=route))
            try:
                jupyterhub_knows_people(run, gateway, issuer, name)
            finally:
                gateway.stop()
            route = ROUTE.format(name="hub", path="/", port=port, keys=f"{PRESET}\n{HUB_COOKIES}\n{LEFT_TO_HUB}", issuer=ISSUER)
            gateway = run.Gateway(folder / f"tokens-{name}", ROUTES.format(issuer=ISSUER, jwks=issuer.jwks, routes=route))
            try:
                jupyterhub_takes_its_own_tokens(run, gateway, issuer)
            finally:
                gateway.stop()
    finally:
        for process in reversed(processes):
            process.stop()
        grafana.shutdown()
        gitea.shutdown()


def started_django(run, folder, here, installed, processes):
    port = run.free_port()
    environment = {**os.environ, "DATABASE": str(folder / "site.sqlite3"), "PYTHONPATH": str(here), "DJANGO_SETTINGS_MODULE": ""}
    migrate = "import site_of_test; from django.core.management import call_command; call_command('migrate', verbosity=0)"
    subprocess.run([installed / "python", "-c", migrate], env=environment, cwd=folder, check=True, timeout=run.PATIENCE)
    server = run.Process([str(installed / "gunicorn"), f"--bind=127.0.0.1:{port}", "--workers=1", "site_of_test:application"], folder, env=environment)
    processes.append(server)
    run.until("Django answers", lambda: server.alive() and run.fetch(f"http://127.0.0.1:{port}/")[0] == 200)
    return port


def started_hub(run, folder, here, installed, processes, authenticator):
    ports = [run.free_port() for _ in range(3)]
    own = folder / f"hub-{authenticator}"
    (own / "ann").mkdir(parents=True)
    (own / "ann" / "page.txt").write_text("Hers")
    environment = {
        **os.environ, "PORTS": " ".join(map(str, ports)), "AUTHENTICATOR": authenticator, "HOME": str(own), "ROBOT": ROBOT,
        "PROXY": str(installed / "configurable-http-proxy"), "PATH": f"{installed}:{os.environ['PATH']}",
    }
    hub = run.Process([str(installed / "jupyterhub"), f"--config={here / 'jupyterhub_config.py'}"], own, env=environment)
    processes.append(hub)
    run.until("JupyterHub answers", lambda: hub.alive() and run.fetch(f"http://127.0.0.1:{ports[0]}/hub/health")[0] == 200)
    return ports[0]


def refused_by_name(gateway, issuer, path):
    """A person without a user name is told so, whatever else is known of them, and whatever they write themselves."""
    nameless = issuer.token(sub="root", email="root@example.com", email_verified=True, name="root", groups=["admins"])
    for token in (nameless, issuer.token(preferred_username="root@example.com"), issuer.token(preferred_username=["root"])):
        status, text = Person(gateway.url, token).ask(path, spoofed=True)
        assert status == 403 and json.loads(text)["code"] == "username_missing", (path, status, text)
    status, text = Person(gateway.url).ask(path, spoofed=True)
    assert status == 401, (path, status, text)


def django_knows_people(gateway, issuer):
    ann = Person(gateway.url, issuer.token(
        preferred_username="ann", email="ann@example.com", email_verified=True, name="Ann \u00c9. Smith, 5%",
        groups=["staff", "Sales, EMEA", "\u00e9quipe"]))
    wanted = {"user": "ann", "groups": ["Sales, EMEA", "staff", "\u00e9quipe"], "email": "ann@example.com", "name": "Ann \u00c9. Smith, 5%"}
    for spoofed in (False, True):
        status, text = ann.ask("/django", spoofed)
        assert status == 200 and json.loads(text) == wanted, (status, text)
    refused_by_name(gateway, issuer, "/django")
    # The app's own session ends with the person: one who signs in after another is not taken for them.
    bob = Person(gateway.url, issuer.token(preferred_username="bob"), ann.cookies)
    assert json.loads(bob.ask("/django", spoofed=True)[1]) == {"user": "bob", "groups": [], "email": "", "name": ""}
    nobody = Person(gateway.url, cookies=ann.cookies)
    assert json.loads(nobody.ask("/visitors", spoofed=True)[1]) == {"user": "", "groups": []}
    status, text = Person(gateway.url, issuer.token()).ask("/visitors")
    assert status == 403 and json.loads(text)["code"] == "username_missing", text


def grafana_knows_people(gateway, issuer):
    groups = ["staff", "root admins", '"admins"', "Sales, admins", '["admins"]']
    ann = Person(gateway.url, issuer.token(preferred_username="ann", groups=groups))
    status, text = ann.ask("/grafana", spoofed=True)
    # Of what Grafana would read in two ways nothing is sent: such names are not among the route's.
    assert status == 200 and json.loads(text) == {"login": "ann", "email": "", "groups": ["staff"]}, text
    refused_by_name(gateway, issuer, "/grafana")


def gitea_knows_people(gateway, issuer, gitea):
    ann = issuer.token(preferred_username="ann", email="ann@example.com", email_verified=True)
    status, text = Person(gateway.url, ann).ask("/gitea", spoofed=True)
    assert status == 200 and json.loads(text) == {"name": "ann"}, text
    assert gitea.users == {"root": "root@example.com", "ann": "ann@example.com"}
    # Sent without a name, Gitea would have taken the person for the owner of the address.
    refused_by_name(gateway, issuer, "/gitea")
    assert gitea.judge({"Remote-Email": "root@example.com"}) == {"name": "root"}


def jupyterhub_knows_people(run, gateway, issuer, authenticator):
    def name(person, spoofed=False):
        status, text = person.ask("/hub/home", spoofed)
        assert status == 200, (status, text[:500])
        return re.search(r'user: "([^"]*)"', text)[1]

    ann = Person(gateway.url, issuer.token(preferred_username="ann", groups=["staff"]))
    assert ann.ask("/hub/login", spoofed=True)[0] == 200
    assert name(ann, spoofed=True) == "ann"
    # Her first visit has started a server of her own, which signs her in by way of the hub.
    page = "/user/ann/files/page.txt"
    run.until("her server answers", lambda: ann.ask(page) == (200, "Hers"))
    status, text = ann.ask("/user/ann/api/me", spoofed=True)
    assert status == 200 and json.loads(text)["identity"]["username"] == "ann", (status, text[:500])
    refused_by_name(gateway, issuer, "/hub/login")
    # One who signs in after her at this browser is not taken for her.
    bob = Person(gateway.url, issuer.token(sub="u-2", preferred_username="bob"), ann.cookies)
    assert name(bob, spoofed=True) == "bob"


def jupyterhub_takes_its_own_tokens(run, gateway, issuer):
    """Programs with a token of the hub's own pass without a session, and the hub judges them; people come as before."""
    def ask(path, field, body=None, **more):
        fields = {"Authorization": field} if field else {}
        status, text = run.fetch(gateway.url + path, {**fields, **SPOOFED, **more}, body)
        return status, json.loads(text)

    for scheme in ("token", "Bearer"):
        status, told = ask("/hub/api/user", f"{scheme} {ROBOT}")
        assert status == 200 and (told["kind"], told["name"]) == ("service", "robot"), (status, told)
        # The hub's own word for what is none, whatever the client writes of itself.
        status, told = ask("/hub/api/user", f"{scheme} {ROBOT[::-1]}")
        assert status == 403 and "code" not in told, (status, told)
    status, told = ask("/hub/api/user", None)
    assert status == 401 and told["code"] == "token_missing", (status, told)

    # A token of Ann's own opens her server, which asks the hub about it.
    status, told = ask("/hub/api/users/ann/tokens", f"token {ROBOT}", {"note": "a script of hers"})
    assert status == 201, (status, told)
    own = told["token"]
    status, told = ask("/user/ann/api/me", f"token {own}")
    assert status == 200 and told["identity"]["username"] == "ann", (status, told)

    # A person with a session is told to the hub by name, beside nothing in the hub's field.
    person = Person(gateway.url)
    person.fields = {"X-Gate-Token": issuer.token(preferred_username="ann", groups=["staff"])}
    status, text = person.ask("/hub/home", spoofed=True)
    assert status == 200 and re.search(r'user: "([^"]*)"', text)[1] == "ann", (status, text[:500])
