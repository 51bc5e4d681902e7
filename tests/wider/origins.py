"""Pages of other origins in a real browser: what script may send, read and keep, at routes and at the native endpoints."""

import http.server
import json
import threading
import urllib.parse

CONFIG = """[cors]
origins = ["http://spa.app.test:{page}"]
allow_headers = ["X-Tenant"]
credentials = true
[[routes]]
name = "api"
match = {{ path = "/api" }}
upstream = ["http://127.0.0.1:{app}"]
auth = "none"
cors = {{ origins = ["http://spa.app.test:{page}"], allow_methods = ["GET", "PUT"], expose_headers = ["X-Total"] }}
[[routes]]
name = "every"
match = {{ path = "/every" }}
upstream = ["http://127.0.0.1:{app}"]
auth = "none"
cors = {{ origins = "*", max_age = "0s" }}
[[routes]]
name = "with"
match = {{ path = "/with" }}
upstream = ["http://127.0.0.1:{app}"]
auth = "none"
cors = {{ origins = ["http://spa.app.test:{page}"], credentials = true }}
"""

# What the HTTP clients of scripts add by themselves, and the context of a trace.
USUAL = {
    "Authorization": "Bearer x",
    "Content-Type": "application/json",
    "X-Requested-With": "XMLHttpRequest",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=b",
    "baggage": "a=b",
    "sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
}

FETCH = """
    const [url, options] = arguments;
    const done = arguments[arguments.length - 1];
    fetch(url, options)
        .then(async answer => done([answer.status, answer.headers.get("X-Total"), await answer.text()]))
        .catch(error => done("refused"));
"""


class App(http.server.BaseHTTPRequestHandler):
    """Answers with the fields that it was sent, and as if it let every page do everything."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("X-Total", "7")
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


def story(run, folder):
    app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=app.serve_forever, daemon=True).start()
    at = app.server_port
    gateway = run.Gateway(folder / "origins", CONFIG.format(page=at, app=at))
    try:
        with run.Browser(folder, "--host-resolver-rules=MAP *.test 127.0.0.1") as browser:
            pages(browser, at, gateway.url)
    finally:
        gateway.stop()
        app.shutdown()
        app.server_close()


def pages(browser, page, gateway):
    def asks(url, method="GET", headers=None, credentials="omit", body=None):
        options = {"method": method, "headers": headers or {}, "credentials": credentials}
        if body is not None:
            options["body"] = body
        return browser.ask("/execute/async", {"script": FETCH, "args": [url, options]})

    # A page that is listed.
    browser.ask("/url", {"url": f"http://spa.app.test:{page}/"})
    status, total, text = asks(gateway + "/api/x", "PUT", USUAL, body="{}")
    told = json.loads(text)
    assert (status, total) == (200, "7"), (status, total, text)
    for name, value in USUAL.items():
        assert told[name.lower()] == value, (name, text)
    assert asks(gateway + "/api/x", "DELETE") == "refused", "a method that is not listed"
    assert asks(gateway + "/api/x", headers={"X-Tenant": "a"}) == "refused", "a field that this route does not list"
    assert asks(gateway + "/api/x", credentials="include") == "refused", "cookies, where none are allowed"
    assert asks(gateway + "/with/x", credentials="include")[0] == 200, "cookies, where they are allowed"
    assert asks(gateway + "/every/x", "PUT", USUAL, body="{}")[0] == 200, "every origin"
    assert asks(gateway + "/every/x", credentials="include") == "refused", "every origin, with cookies"
    native = gateway + "/auth/session"
    assert asks(native, headers={"X-Tenant": "a", **USUAL}) != "refused", "the fields that the native endpoints list"
    assert asks(native, headers={"X-Total": "a"}) == "refused", "one that they do not list"
    assert asks(native, credentials="include") != "refused", "cookies at the native endpoints"

    # One that is not.
    browser.ask("/url", {"url": f"http://evil.test:{page}/"})
    for path in ("/api/x", "/with/x", "/auth/session"):
        for credentials in ("omit", "include"):
            assert asks(gateway + path, credentials=credentials) == "refused", (path, credentials)
    assert asks(gateway + "/every/x")[0] == 200, "every origin"
    assert asks(gateway + "/every/x", credentials="include") == "refused", "every origin, with cookies"
