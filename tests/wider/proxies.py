"""nginx, HAProxy and Caddy in front of the gateway: who the client is, in each of the fields that they can say it in, which id
they gave the request, and that no request is lost behind one whose app does not answer.

nginx writes what its users configure: it appends to X-Forwarded-For, replaces X-Real-IP, writes Forwarded, and hands
every other field of a client on. HAProxy appends its line behind that of the client; Caddy throws the client's away.
"""

import http.server
import json
import os
import threading

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/1;
  proxy_temp_path {folder}/2;
  fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4;
  scgi_temp_path {folder}/5;
  underscores_in_headers on;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{gateway};
      proxy_set_header Host $http_host;
      {lines}
    }}
  }}
}}
"""

# Connections to the gateway are kept, and a POST is sent once.
KEPT = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/1;
  proxy_temp_path {folder}/2;
  fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4;
  scgi_temp_path {folder}/5;
  upstream gateway {{
    server 127.0.0.1:{gateway};
    keepalive 1;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind 127.0.0.1:{port}
  option forwardfor
  unique-id-format %[uuid()]
  http-request del-header X-Request-Id
  http-request set-header X-Request-Id %[unique-id]
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-Host app.example
  http-request set-header X-Forwarded-Port 8443
  default_backend gateway
backend gateway
  server one 127.0.0.1:{gateway}
"""

CADDY = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{gateway} {{
    header_up X-Request-Id {{http.request.uuid}}
  }}
}}
"""

ROUTES = """trusted_proxies = ["127.0.0.1"]
client_address = "{field}"
[[routes]]
name = "app"
upstream = ["http://127.0.0.1:{port}"]
auth = "none"
[[routes]]
name = "dead"
match = {{ path = "/dead" }}
upstream = ["http://127.0.0.1:{dead}"]
auth = "none"
"""

FALSE = {
    "X-Forwarded-For": '6.6.6.6, "',
    "X-Real-IP": "6.6.6.6",
    "Forwarded": 'for="6.6.6.6',
    "True-Client-IP": "6.6.6.6",
    "X-Forwarded-User": "evil",
    "X_Forwarded_User": "evil",
    "X-Original-URL": "/evil",
    "Remote-User": "evil",
}


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def story(run, folder):
    app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=app.serve_forever, daemon=True).start()
    try:
        for field, lines in [
            ("x-forwarded-for", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"),
            ("x-forwarded-for", 'proxy_set_header X-Forwarded-For "$http_x_forwarded_for, $remote_addr:$remote_port";'),
            ("x-real-ip", "proxy_set_header X-Real-IP $remote_addr;"),
            ("forwarded", "proxy_set_header Forwarded '$http_forwarded, for=\"$remote_addr:$remote_port\";proto=https';"),
        ]:
            seen(run, folder, app.server_address[1], field, lines)
        behind_haproxy(run, folder, app.server_address[1])
        behind_caddy(run, folder, app.server_address[1])
        nothing_is_lost_behind_a_failure(run, folder, app.server_address[1])
    finally:
        app.shutdown()
        app.server_close()


def seen(run, folder, app, field, lines):
    if field != "forwarded":
        lines += " proxy_set_header X-Forwarded-Proto https;"
    lines += ' proxy_set_header X-Request-Id "front-$request_id";'
    gateway = started(run, folder, field, app)
    port = run.free_port()
    config = gateway.folder / "nginx.conf"
    config.write_text(NGINX.format(folder=gateway.folder, port=port, gateway=gateway.port, lines=lines))
    nginx = run.Process([run.program("nginx"), "-e", "stderr", "-p", str(gateway.folder), "-c", str(config)], gateway.folder)
    try:
        url = f"http://127.0.0.1:{port}/"
        status, text = run.until("nginx answers", lambda: nginx.alive() and run.fetch(url, FALSE))
        assert status == 200, text
        fields = json.loads(text)
        assert "6.6.6.6" not in text and "evil" not in text, f"{lines}: {text}"
        told = dict(fields)
        assert len(told) == len(fields), f"{lines}: a field twice: {text}"
        # nginx is the only proxy, and its client is this machine too.
        assert told["x-forwarded-for"] == "127.0.0.1, 127.0.0.1", f"{lines}: {text}"
        assert told["forwarded"].startswith("for=127.0.0.1;host="), f"{lines}: {text}"
        assert told["forwarded"].endswith(";proto=https, for=127.0.0.1"), f"{lines}: {text}"
        assert told["x-forwarded-proto"] == "https", f"{lines}: {text}"
        assert told["x-request-id"].startswith("front-"), f"{lines}: {text}"
        assert told.get("x-real-ip") == ("127.0.0.1" if field == "x-real-ip" else None), f"{lines}: {text}"
    finally:
        nginx.stop()
        gateway.stop()


def started(run, folder, field, app):
    return run.Gateway(folder / f"proxies-{run.free_port()}", ROUTES.format(field=field, port=app, dead=run.free_port()))


def told_by(run, command, port, process):
    """The fields that the app gets of a request that forges them."""
    status, text = run.until(f"{command} answers", lambda: process.alive() and run.fetch(f"http://127.0.0.1:{port}/", FALSE))
    assert status == 200, text
    fields = json.loads(text)
    assert "6.6.6.6" not in text and "evil" not in text, text
    told = dict(fields)
    assert len(told) == len(fields), f"a field twice: {text}"
    assert told["x-forwarded-for"] == "127.0.0.1, 127.0.0.1", text
    # The id is the proxy's: ours has no hyphens.
    assert len(told["x-request-id"]) == 36, text
    return told


def behind_haproxy(run, folder, app):
    gateway, port = started(run, folder, "x-forwarded-for", app), run.free_port()
    config = gateway.folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, gateway=gateway.port))
    haproxy = run.Process([run.program("haproxy"), "-db", "-f", str(config)], gateway.folder)
    try:
        told = told_by(run, "haproxy", port, haproxy)
        # Both dialects say the port.
        assert told["forwarded"] == 'for=127.0.0.1;host="app.example:8443";proto=https, for=127.0.0.1', told
        assert (told["x-forwarded-host"], told["x-forwarded-port"]) == ("app.example", "8443"), told
        assert told["x-forwarded-proto"] == "https", told
    finally:
        haproxy.stop()
        gateway.stop()


def behind_caddy(run, folder, app):
    gateway, port = started(run, folder, "x-forwarded-for", app), run.free_port()
    config = gateway.folder / "Caddyfile"
    config.write_text(CADDY.format(port=port, gateway=gateway.port))
    home = {**os.environ, "HOME": str(gateway.folder), "XDG_CONFIG_HOME": str(gateway.folder), "XDG_DATA_HOME": str(gateway.folder)}
    command = [run.program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    caddy = run.Process(command, gateway.folder, env=home)
    try:
        told = told_by(run, "caddy", port, caddy)
        assert told["forwarded"] == f'for=127.0.0.1;host="127.0.0.1:{port}";proto=http, for=127.0.0.1', told
        assert (told["x-forwarded-host"], told["x-forwarded-proto"]) == (f"127.0.0.1:{port}", "http"), told
    finally:
        caddy.stop()
        gateway.stop()


def nothing_is_lost_behind_a_failure(run, folder, app):
    """A proxy that keeps connections to the gateway sends no request over one that a 502 has ended."""
    gateway, port = started(run, folder, "x-forwarded-for", app), run.free_port()
    config = gateway.folder / "nginx.conf"
    config.write_text(KEPT.format(folder=gateway.folder, port=port, gateway=gateway.port))
    nginx = run.Process([run.program("nginx"), "-e", "stderr", "-p", str(gateway.folder), "-c", str(config)], gateway.folder)
    try:
        url = f"http://127.0.0.1:{port}"
        run.until("nginx answers", lambda: nginx.alive() and run.fetch(url + "/")[0] == 200)
        for number in range(100):
            failed = run.fetch(url + "/dead", body={"number": number})[0]
            then = run.fetch(url + "/", body={"number": number})[0]
            assert (failed, then) == (502, 200), f"{number}: {failed}, then {then}"
    finally:
        nginx.stop()
        gateway.stop()
