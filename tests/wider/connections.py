"""Users' connections to a provider, as the provider sees them: npm's oidc-provider over TLS.

A browser gives consent, tokens are kept sealed, refreshed once however many ask, put into requests, and
revoked; and the gateway is killed between the provider's answer and its own write.
"""

import concurrent.futures
import http.client
import json
import os
import random
import shutil
import signal
import ssl
import threading
import time
import urllib.parse
from pathlib import Path

import mail
from accounts import Api

FOLDER = Path(__file__).resolve().parent / "provider"
CLIENT_ID, CLIENT_SECRET = "palisade", "a secret: with ~ signs & more"
ANN = "ann@example.com"
# How often the gateway is killed; `make test-wider` may be told another number.
KILLS = int(os.environ.get("KILLS", "100"))
CALLERS = 1000


class Provider:
    """The server, and what it saw."""

    def __init__(self, run, folder, callbacks, access_ttl, rotate=True):
        self.folder, self.port = folder, run.free_port()
        folder.mkdir()
        mail.Certificates(folder)
        settings = {"callbacks": callbacks, "access_ttl": access_ttl, "rotate": rotate}
        (folder / "settings.json").write_text(json.dumps(settings))
        installed = run.ROOT / "target" / "wider" / "provider"
        shutil.copy(FOLDER / "server.mjs", installed)
        self.url = f"https://localhost:{self.port}"
        self.tls = ssl.create_default_context(cafile=folder / "ours.pem")
        self.process = run.Process([run.program("node"), str(installed / "server.mjs"), str(folder), str(self.port)], folder)
        run.until("the provider is ready", lambda: self.process.alive() and self.seen())

    def ask(self, path, token=None):
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.tls, timeout=30)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        return answer.status, body

    def seen(self):
        return self.ask("/test/seen")[1]

    def refreshes(self):
        return self.seen()["asked"]["refresh_token"]

    def grant(self, account):
        return self.ask(f"/test/grant?account={account}")[1]

    def config(self, name="acme"):
        return f"""
[[providers]]
name = "{name}"
component = "builtin:oauth2"
client_id = "file:client_id"
client_secret = "file:client_secret"
allowed_hosts = ["localhost:{self.port}"]
allow_loopback = true
ca = "{self.folder / 'ours.pem'}"
scopes = ["openid", "offline_access", "email"]
token_access = {{ email_verified = true }}
[providers.settings]
display_name = "Acme"
authorize_url = "{self.url}/auth"
authorize_params = {{ prompt = "consent" }}
token_url = "{self.url}/token"
revoke_url = "{self.url}/token/revocation"
identity = "id_token"
"""


def gateway(run, folder, routes, connections="", public=None):
    """A gateway in `folder` with one account, its API, and the token of the account."""
    folder.mkdir(exist_ok=True)
    (folder / "client_id").write_text(CLIENT_ID)
    (folder / "client_secret").write_text(CLIENT_SECRET)
    started = run.Gateway(folder, routes + f"""
[connections]
return_to = ["/done"]
{connections}
[passwords]
bcrypt_cost = 4
[limits]
enabled = false
[mail]
transport = "file:./outbox"
""", public=public)
    made = json.loads(started.cli("users", "add", ANN, "--verified", "--generate-password", "--json"))
    api = Api(started)
    return started, api, lambda: api.login(ANN, made["password"])["access_token"]


def connects(api, run, folder, provider, page, token):
    """Consent in a browser, from a page of the app's to the page that the app wants to be shown after."""
    with run.Browser(folder, "--ignore-certificate-errors") as browser:
        browser.ask("/url", {"url": page})
        begin = """
            const [token, done] = arguments;
            fetch("/auth/connections", {
                method: "POST",
                headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
                body: JSON.stringify({ provider: "acme", return_to: new URL("/done", location.href).href }),
            }).then(async (answer) => done([answer.status, await answer.json()]));
        """
        status, begun = browser.ask("/execute/async", {"script": begin, "args": [token]})
        assert status == 201 and begun["status"] == "pending", begun
        # Over TLS browsers let no other host of the site set a cookie of this name (RFC 6265bis §4.1.3.2).
        cookies = browser.ask("/cookie")
        assert [c["name"].startswith("__Host-palisade_connect_") and c["secure"] and c["httpOnly"] for c in cookies] == [True], cookies
        assert begun["authorization_url"].startswith(provider.url + "/auth?"), begun
        browser.ask("/url", {"url": begun["authorization_url"]})
        fill = """
            const field = document.querySelector("input[name=login]");
            if (field) { field.value = "ann"; document.querySelector("input[name=password]").value = "x"; }
            const button = document.querySelector("button[type=submit]");
            if (button) button.click();
            return location.href;
        """

        def arrived():
            at = browser.ask("/url")
            if not at.startswith(provider.url):
                return at
            browser.ask("/execute/sync", {"script": fill, "args": []})
            return None

        at = urllib.parse.urlsplit(run.until("the browser is sent back", arrived))
    query = dict(urllib.parse.parse_qsl(at.query))
    assert at.path == "/done" and query == {"connection": begun["id"]}, at
    return begun["id"]



def story(run, folder):
    port = run.free_port()
    public = f"https://localhost:{port}"
    provider = None
    started = None
    try:
        provider = Provider(run, folder / "story-acme", [f"{public}/auth/connections/callback"], access_ttl=5)
        routes = f"""
[server.tls]
listen = "127.0.0.1:{port}"
cert = "{provider.folder / 'localhost.pem'}"
key = "{provider.folder / 'localhost.key'}"
[[routes]]
name = "app"
match = {{ path = "/" }}
upstream = ["https://localhost:{provider.port}"]
ca = "{provider.folder / 'ours.pem'}"
auth = "none"
[[routes]]
name = "acme"
match = {{ path = "/api" }}
upstream = ["https://localhost:{provider.port}"]
ca = "{provider.folder / 'ours.pem'}"
preserve_host = false
inject = {{ provider = "acme" }}
"""
        ahead = 'refresh_ahead = "2s"\nkeep_fresh = false'
        started, api, login = gateway(run, folder / "connected", routes + provider.config(), ahead, public)
        token = login()
        api.refused("connection_required", "GET", "/api/before", token=token)
        offered = api.good("GET", "/auth/providers", token=token)["providers"]
        assert [(p["name"], p["display_name"]) for p in offered] == [("acme", "Acme")], offered
        id = connects(api, run, folder, provider, public + "/test/seen", token)
        shown = api.good("GET", f"/auth/connections/{id}", token=token)
        assert (shown["status"], shown["provider"]) == ("active", "acme"), shown
        assert shown["account"]["subject"] == "ann" and set(shown["scopes_granted"]) >= {"openid", "offline_access"}, shown
        nothing_in_clear(started.folder / "data", provider)

        first = api.good("GET", "/api/one", token=token)
        assert first["account"] == "ann" and first["told"]["x-auth-email"] == ANN, first
        assert provider.refreshes() == 0
        provider.ask("/test/lifetime?seconds=90")
        run.until("the token ends", lambda: provider.ask("/api/x", first["token"])[0] == 401)
        second = api.good("GET", "/api/two", token=token)
        assert second["account"] == "ann" and second["token"] != first["token"], second
        assert provider.refreshes() == 1

        # The provider forgets the token. One that has just come is believed to be good for a while; then it is one
        # refresh and one retry, and the caller notices nothing.
        shown = api.good("GET", f"/auth/connections/{id}", token=token)
        provider.ask(f"/test/forget?token={second['token']}")
        assert api.ask("GET", "/api/three", token=token)[0] == 401 and provider.refreshes() == 1
        run.until("the token is no longer new", lambda: time.time() > shown["refreshed_at"] + 31)
        third = api.good("GET", "/api/three", token=token)
        assert third["token"] not in (first["token"], second["token"]) and provider.refreshes() == 2, third

        held = api.good("GET", f"/auth/connections/{id}/token", token=token)
        assert held["access_token"] == third["token"] and held["token_type"] == "Bearer", held
        api.good("DELETE", f"/auth/connections/{id}", token=token, status=204)
        assert provider.ask("/api/x", held["access_token"])[0] == 401
        api.refused("connection_revoked", "GET", f"/auth/connections/{id}/token", token=token)
        api.refused("connection_required", "GET", "/api/four", token=token)
        assert provider.seen()["asked"]["revoked"] >= 1
        nothing_in_clear(started.folder / "data", provider)
        said = started.process.said()
        for tokens in provider.seen()["issued"]:
            for one in filter(None, tokens.values()):
                assert one not in said, "a token is in the log"
        assert CLIENT_SECRET not in said
    finally:
        if started:
            started.stop()
        if provider:
            provider.process.stop()


def nothing_in_clear(data, provider):
    """None of the tokens that the provider issued is in any file of the data folder."""
    secrets = [one.encode() for tokens in provider.seen()["issued"] for one in filter(None, tokens.values())]
    secrets.append(CLIENT_SECRET.encode())
    assert len(secrets) >= 3, secrets
    files = [file for file in data.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        for secret in secrets:
            assert secret not in content, f"a token is in {file}"


def imported(api, provider, token):
    """A connection that holds a grant which no browser was needed for."""
    begun = api.good("POST", "/auth/connections", {"provider": "acme", "another": True}, token=token, status=201)
    tokens = provider.grant("ann")
    api.good("PUT", f"/auth/connections/{begun['id']}/tokens", {**tokens, "expires_in": 1}, token=token, status=204)
    return begun["id"]


def many_callers(run, folder):
    """A thousand callers at once on a token that has ended: the provider is asked once."""
    provider, started = None, None
    try:
        provider = Provider(run, folder / "callers-acme", ["http://localhost/auth/connections/callback"], access_ttl=120)
        started, api, login = gateway(run, folder / "callers", run.APP + provider.config(), "keep_fresh = false")
        token = login()
        id = imported(api, provider, token)
        ends = api.good("GET", f"/auth/connections/{id}", token=token)["expires_at"]
        run.until("the token has ended", lambda: time.time() > ends)
        before = provider.refreshes()
        together = threading.Barrier(CALLERS)

        def ask(_):
            together.wait(60)
            return api.good("GET", f"/auth/connections/{id}/token", token=token)["access_token"]

        with concurrent.futures.ThreadPoolExecutor(CALLERS) as many:
            got = list(many.map(ask, range(CALLERS)))
        assert len(set(got)) == 1 and provider.ask("/api/x", got[0])[0] == 200, len(set(got))
        assert provider.refreshes() == before + 1, provider.seen()["asked"]
        # With rotation the next one works only if the new refresh token was kept.
        api.good("POST", f"/auth/connections/{id}/refresh", token=token)
        again = api.good("GET", f"/auth/connections/{id}/token", token=token)["access_token"]
        assert again != got[0] and provider.refreshes() == before + 2, provider.seen()["asked"]
    finally:
        if started:
            started.stop()
        if provider:
            provider.process.stop()


def killed(run, folder):
    """Killed at any moment around the provider's answer: afterwards a connection works, or says that it does not."""
    provider, started = None, None
    worked = lost = 0
    moment = random.Random(7)
    try:
        provider = Provider(run, folder / "killed-acme", ["http://localhost/auth/connections/callback"], access_ttl=300)
        started, api, login = gateway(run, folder / "killed", run.APP + provider.config())
        token = login()
        id = imported(api, provider, token)
        for n in range(KILLS):
            asked = provider.refreshes()

            def refresh():
                try:
                    api.ask("POST", f"/auth/connections/{id}/refresh", token=token)
                except (OSError, http.client.HTTPException):
                    pass  # killed

            caller = threading.Thread(target=refresh)
            caller.start()
            if moment.random() < 0.7:
                # The window that matters: the provider has rotated, and we may not have written.
                while provider.refreshes() == asked and caller.is_alive():
                    pass
                time.sleep(moment.random() * 0.004)
            else:
                time.sleep(moment.random() * 0.03)
            os.killpg(started.process.child.pid, signal.SIGKILL)
            started.process.child.wait()
            run.Process.running.remove(started.process)
            caller.join()
            started.start()
            shown = api.good("GET", f"/auth/connections/{id}", token=token)
            if shown["status"] != "reconnect_needed":
                status, answer = api.ask("POST", f"/auth/connections/{id}/refresh", token=token)
                shown = api.good("GET", f"/auth/connections/{id}", token=token)
                assert status == 200 or shown["status"] == "reconnect_needed", (n, status, answer, shown)
            if shown["status"] == "reconnect_needed":
                lost += 1
                api.refused("reconnect_needed", "GET", f"/auth/connections/{id}/token", token=token)
                id = imported(api, provider, token)
                continue
            worked += 1
            held = api.good("GET", f"/auth/connections/{id}/token", token=token)["access_token"]
            assert provider.ask("/api/x", held)[0] == 200, n
        assert worked + lost == KILLS
        print(f"        {KILLS} kills: {worked} connections went on, {lost} said reconnect_needed", flush=True)
    finally:
        if started:
            started.stop()
        if provider:
            provider.process.stop()
