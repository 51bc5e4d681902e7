"""An app that calls another API as its user, with the token that the gateway sends it (`headers.access_token`).

The API is verified by PyJWT, which knows nothing of Palisade: it reads the published keys, and compares issuer and
audience. `make deps-wider` installs it.
"""

import contextlib
import http.server
import json
import threading
import time
import urllib.error
import urllib.request

import jwt

ROUTES = """[tokens]
algorithm = "{algorithm}"
[passwords]
bcrypt_cost = 4
[[routes]]
name = "dashboard"
match = {{ path = "/dashboard" }}
upstream = ["http://127.0.0.1:{app}"]
headers = {{ access_token = "Authorization", audience = "reports" }}
[[routes]]
name = "api"
match = {{ path = "/api" }}
upstream = ["http://127.0.0.1:{app}"]
"""

PASSWORD = "Correct horse 42"


def serve(answer):
    """A server that answers what `answer` says of a path and its fields."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            status, told = answer(self.path, self.headers)
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def api(gateway):
    """The API: it takes tokens of this issuer for `reports`, and says who asks and through which app."""
    keys = jwt.PyJWKClient(f"{gateway().url}/.well-known/jwks.json")

    def answer(_path, fields):
        scheme, _, token = fields.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return 401, {"why": "no token"}
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token, keys.get_signing_key_from_jwt(token).key, algorithms=["EdDSA", "ES256", "RS256"], audience="reports",
                issuer=gateway().url, options={"require": ["exp", "iat", "sub", "aud", "iss", "jti"]})
        except jwt.PyJWTError as error:
            return 401, {"why": repr(error)}
        if header["typ"] != "at+jwt":
            return 401, {"why": "no access token (RFC 9068)"}
        left = claims["exp"] - time.time()
        return 200, {"user": claims["sub"], "app": claims["client_id"], "session": claims["sid"], "left": left}

    return serve(answer)


def dashboard(at):
    """The app: it asks the API with the field as it got it, and answers what that says."""

    def answer(path, fields):
        told = {"token": fields.get("Authorization"), "subject": fields.get("X-Auth-Subject")}
        if path.startswith("/dashboard"):
            request = urllib.request.Request(f"http://127.0.0.1:{at()}/numbers", headers={"Authorization": fields.get("Authorization", "")})
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as heard:
                    told["heard"] = json.loads(heard.read())
            except urllib.error.HTTPError as refusal:
                return 502, {**told, "heard": json.loads(refusal.read())}
        return 200, told

    return serve(answer)


def story(run, folder):
    for algorithm in ("EdDSA", "ES256", "RS256"):
        signed_with(run, folder, algorithm)


def signed_with(run, folder, algorithm):
    places = {}
    with contextlib.ExitStack() as ending:
        app = dashboard(lambda: places["reports"].server_port)
        ending.callback(app.shutdown)
        gateway = run.Gateway(folder / f"reports-{algorithm}", ROUTES.format(app=app.server_port, algorithm=algorithm))
        ending.callback(gateway.stop)
        places["reports"] = api(lambda: gateway)
        ending.callback(places["reports"].shutdown)

        credential = (gateway.folder / "data/admin.token").read_text().strip()
        operator = {"Authorization": f"Bearer {credential}"}
        account = {"email": "ann@example.com", "password": PASSWORD, "email_verified": True}
        status, made = run.fetch(gateway.admin + "/admin/v1/users", operator, account)
        assert status == 201, made
        user = json.loads(made)["id"]

        def bearer(token):
            return {"Authorization": f"Bearer {token}"}

        def visit(path, fields):
            status, text = run.fetch(gateway.url + path, fields)
            return status, json.loads(text)

        status, told = run.fetch(gateway.url + "/auth/login", {}, {"email": "ann@example.com", "password": PASSWORD})
        assert status == 200, told
        own = json.loads(told)["access_token"]
        assert run.fetch(gateway.url + "/dashboard")[0] == 401

        status, told = visit("/dashboard", bearer(own))
        heard, token = told["heard"], told["token"]
        assert status == 200 and (heard["user"], heard["app"]) == (user, "dashboard"), told
        assert 0 < heard["left"] <= 300 and token != f"Bearer {own}", told
        assert visit("/dashboard", bearer(own))[1]["token"] == token, "one token for the session"
        # The API takes no other token of the gateway, and the gateway's routes do not take this one.
        assert "Audience" in visit_api(run, places, own)["why"]
        assert visit("/api", {"Authorization": token})[0] == 401
        assert visit("/api", bearer(own))[1]["token"] is None, "the caller's own token reaches no app"

        # New keys: the API finds the next one among the published ones, and what is under way stays good.
        gateway.cli("keys", "rotate")
        assert visit("/dashboard", bearer(own))[0] == 200
        status, told = run.fetch(gateway.url + "/auth/login", {}, {"email": "ann@example.com", "password": PASSWORD})
        again = json.loads(told)["access_token"]
        status, told = visit("/dashboard", bearer(again))
        assert status == 200 and told["heard"]["session"] != heard["session"], told

        # An operator's token has no session: the app is told who calls, and gets no token.
        minted = gateway.cli("token", "mint", "--sub", "robot")
        status, told = visit("/dashboard", bearer(minted))
        assert (status, told["token"], told["subject"], told["heard"]["why"]) == (502, None, "robot", "no token"), told


def visit_api(run, places, token):
    _, text = run.fetch(f"http://127.0.0.1:{places['reports'].server_port}/numbers", {"Authorization": f"Bearer {token}"})
    return json.loads(text)
