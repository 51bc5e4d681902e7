"""WsgiDAV, a WebDAV server as it is, behind the gateway: files are copied and moved within what is open, and none comes
into what is closed. `make deps-wider` installs it.
"""

import http.client

ROUTES = """[[routes]]
name = "public"
match = {{ path = "/public" }}
upstream = ["http://127.0.0.1:{port}"]
auth = "none"
{more}
[[routes]]
name = "admin"
match = {{ path = "/admin" }}
upstream = ["http://127.0.0.1:{port}"]
auth = "required"
{more}
"""


def ask(port, method, path, body=None, **fields):
    """The status of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def story(run, folder):
    server = run.ROOT / "target/wider/dav/bin/wsgidav"
    if not server.exists():
        raise AssertionError("WsgiDAV is not installed: `make deps-wider` says how")
    files = folder / "webdav-files"
    for name in ("public", "admin"):
        (files / name).mkdir(parents=True)
    port = run.free_port()
    app = run.Process([str(server), "--host=127.0.0.1", f"--port={port}", f"--root={files}", "--auth=anonymous", "--server=cheroot"], folder)
    try:
        run.until("WsgiDAV answers", lambda: app.alive() and ask(port, "OPTIONS", "/public/") == 200)
        for more in ("", "preserve_host = false"):
            moved(run, folder, files, port, more)
    finally:
        app.stop()


def moved(run, folder, files, port, more):
    gateway = run.Gateway(folder / f"webdav-{port}-{len(more)}", ROUTES.format(port=port, more=more))
    try:
        host = f"127.0.0.1:{gateway.port}"
        run.until("the gateway answers", lambda: ask(gateway.port, "OPTIONS", "/public/") == 200)
        # A TLS proxy in front would have the client write `https`: the server takes that for another one unless told.
        for origin in ("", f"http://{host}"):
            for name in ("one", "two", "three"):
                (files / "public" / f"{name}.txt").unlink(missing_ok=True)
            assert ask(gateway.port, "PUT", "/public/one.txt", b"text") == 201
            for method, source, target in (("COPY", "one", "two"), ("MOVE", "two", "three")):
                status = ask(gateway.port, method, f"/public/{source}.txt", Destination=f"{origin}/public/%74{target[1:]}.txt")
                assert status == 201, f"{method} {origin} {more}: {status}"
            assert sorted(path.name for path in (files / "public").iterdir()) == ["one.txt", "three.txt"]
            for method in ("COPY", "MOVE"):
                for target, want in (
                    ("/admin/x.txt", 401), ("/%61dmin/x.txt", 401), ("/public/../admin/x.txt", 400),
                    ("/public/%2e%2e/admin/x.txt", 400), ("/public/%252e%252e/admin/x.txt", 400), ("/public;/../admin/x.txt", 400),
                ):
                    status = ask(gateway.port, method, "/public/one.txt", Destination=origin + target)
                    assert status == want, f"{method} to {origin}{target}: {status}"
            assert ask(gateway.port, "COPY", "/public/one.txt", Destination="http://other.test/public/x.txt") == 403
            # The server itself would have done it: only the gateway stands in the way.
            assert ask(port, "COPY", "/public/one.txt", Destination="/admin/direct.txt") == 201
            assert [path.name for path in (files / "admin").iterdir()] == ["direct.txt"]
            (files / "admin" / "direct.txt").unlink()
    finally:
        gateway.stop()
