"""Apps as their operators set them up: nginx that closes idle connections early, Tomcat with a context path, Node at a socket
file."""

import random
import threading
import time
import urllib.error
import urllib.request

import paths

# nginx gives up an idle connection after this many seconds, and says so in no field.
KEEPALIVE = 1
POSTS, CALLERS = 8, 16

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
  access_log off;
  keepalive_timeout {keepalive}s;
  client_body_temp_path {folder}/1;
  proxy_temp_path {folder}/2;
  fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4;
  scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "ok"; }}
  }}
}}
"""

NODE = """
const http = require('http');
http.createServer((request, response) => {
  let length = 0;
  request.on('data', piece => { length += piece.length; });
  request.on('end', () => response.end(`${request.method} ${request.url} ${request.headers.host} ${length}`));
}).listen(process.argv[1]);
"""

ROUTES = """[log]
access = false
[[routes]]
name = "early"
match = {{ path = "/early" }}
upstream = ["http://127.0.0.1:{nginx}"]
upstream_idle = "500ms"
auth = "none"
[[routes]]
name = "default"
match = {{ path = "/default" }}
upstream = ["http://127.0.0.1:{nginx}"]
auth = "none"
[[routes]]
name = "shop"
match = {{ path = "/shop" }}
upstream = ["http://127.0.0.1:{tomcat}/context"]
strip_prefix = "/shop"
rewrite = {{ location = true, cookies = true }}
auth = "none"
[[routes]]
name = "node"
match = {{ path = "/node" }}
upstream = ["unix:{socket}"]
strip_prefix = "/node"
auth = "none"
"""


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay())


def ask(url, body=None):
    """The status, the fields and the text of an answer; a redirect is not followed."""
    try:
        with OPENER.open(urllib.request.Request(url, data=body), timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as other:
        return other.code, other.headers, other.read().decode()


def lost_posts(url):
    """How many of many POSTs fail that come when the app is about to close its idle connections."""
    codes, dice = [], random.Random(7)
    waits = [[KEEPALIVE + dice.uniform(-0.02, 0.02) for _ in range(POSTS)] for _ in range(CALLERS)]

    def call(own):
        for wait in own:
            codes.append(ask(url, b"x=1")[0])
            time.sleep(wait)

    callers = [threading.Thread(target=call, args=(own,)) for own in waits]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(codes) == POSTS * CALLERS and set(codes) <= {200, 502}, codes
    return codes.count(502)


def story(run, folder):
    folders = {name: folder / f"upstreams-{name}" for name in ("nginx", "tomcat", "node", "gateway")}
    for name in ("nginx", "tomcat", "node"):
        folders[name].mkdir()
    begun = len(run.Process.running)
    try:
        port, at = run.free_port(), folders["nginx"]
        (at / "nginx.conf").write_text(NGINX.format(folder=at, port=port, keepalive=KEEPALIVE))
        run.Process([run.program("nginx"), "-e", "stderr", "-c", str(at / "nginx.conf"), "-p", str(at)], at)
        tomcat = paths.tomcat(run, folders["tomcat"], "context")["tomcat"]
        socket = folders["node"] / "app.sock"
        run.Process([run.program("node"), "-e", NODE, str(socket)], folders["node"])
        gateway = run.Gateway(folders["gateway"], ROUTES.format(nginx=port, tomcat=tomcat, socket=socket))
        run.until("Node listens", socket.exists)
        said = ask(f"{gateway.url}/node/x?y", b"hello")
        assert (said[0], said[2]) == (200, f"POST /x?y localhost:{gateway.port} 5"), said
        run.until("Tomcat serves", lambda: ask(f"http://127.0.0.1:{tomcat}/context/x")[0] == 200)
        # Tomcat sends the context to itself with a slash, and has a session at it.
        status, fields, _ = ask(f"{gateway.url}/shop")
        assert (status, fields["Location"]) == (302, "/shop/"), (status, fields.items())
        status, fields, text = ask(f"{gateway.url}/shop/admin/x")
        assert (status, text) == (200, "served:admin\n"), (status, text)
        assert "; Path=/shop;" in fields["Set-Cookie"], fields["Set-Cookie"]
        lost = {name: lost_posts(f"{gateway.url}/{name}") for name in ("early", "default")}
        print(f"        of {POSTS * CALLERS} POSTs around the end of a keep-alive {lost['early']} are lost with upstream_idle below it, "
              f"{lost['default']} without", flush=True)
        assert lost["early"] == 0, lost
    finally:
        for process in run.Process.running[begun:]:
            process.stop()
