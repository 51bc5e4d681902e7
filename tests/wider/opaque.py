"""Opaque tokens of npm's oidc-provider, which is asked about them over TLS (RFC 7662).

It answers without `aud` for a token without a resource, so the gateway is told by which member it names the app.
"""

import json

import reports
from connections import CLIENT_ID, CLIENT_SECRET, Provider


def story(run, folder):
    folder = folder / "opaque"
    folder.mkdir()
    app = reports.serve(lambda _path, fields: (200, {"user": fields.get("X-Auth-Subject"), "token": fields.get("Authorization")}))
    provider = Provider(run, folder / "provider", ["https://localhost/cb"], 3600)
    (folder / "gate").mkdir()
    (folder / "gate" / "client_secret").write_text(CLIENT_SECRET)
    gateway = run.Gateway(folder / "gate", f"""
[[issuers]]
issuer = "{provider.url}"
ca = "{provider.folder / 'ours.pem'}"
audiences = ["{CLIENT_ID}"]
audience_claim = "client_id"
[issuers.introspection]
url = "{provider.url}/token/introspection"
client_id = "{CLIENT_ID}"
client_secret = "file:client_secret"
cache = "1s"
[[routes]]
name = "api"
match = {{ path = "/api" }}
upstream = ["http://127.0.0.1:{app.server_address[1]}"]
issuers = ["{provider.url}"]
""")
    try:
        def ask(token):
            return run.fetch(gateway.url + "/api", {"Authorization": f"Bearer {token}"})

        tokens = provider.grant("ann")
        status, body = ask(tokens["access_token"])
        assert (status, json.loads(body)) == (200, {"user": "ann", "token": None}), (status, body)
        # A refresh token is active there, too.
        status, body = ask(tokens["refresh_token"])
        assert status == 401, body
        status, body = ask("made-up")
        assert status == 401, body
        # Revoked here: at once. Another grant of the same person is another token, which does not name a moment before that.
        gateway.cli("token", "revoke", "--issuer", provider.url, "--sub", "ann")
        assert ask(tokens["access_token"])[0] == 401
        # Gone there: when the answer of a second ago is over.
        bob = provider.grant("bob")["access_token"]
        assert ask(bob)[0] == 200
        provider.ask(f"/test/forget?token={bob}")
        run.until("the token is over", lambda: ask(bob)[0] == 401)
    finally:
        gateway.stop()
        provider.process.stop()
        app.shutdown()
