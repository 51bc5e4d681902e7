"""nginx in front of the gateway: who the client is, in each of the fields that it can say it in.

nginx writes what its users configure: it appends to X-Forwarded-For, replaces X-Real-IP, writes Forwarded, and hands
every other field of a client on.
"""

import http.server
import json
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

ROUTES = """trusted_proxies = ["127.0.0.1"]
client_address = "{field}"
[[routes]]
name = "app"
upstream = ["http://127.0.0.1:{port}"]
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
    def do_GET(self):
        body = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
    finally:
        app.shutdown()
        app.server_close()


def seen(run, folder, app, field, lines):
    if field != "forwarded":
        lines += " proxy_set_header X-Forwarded-Proto https;"
    gateway = run.Gateway(folder / f"proxies-{run.free_port()}", ROUTES.format(field=field, port=app))
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
        assert told.get("x-real-ip") == ("127.0.0.1" if field == "x-real-ip" else None), f"{lines}: {text}"
    finally:
        nginx.stop()
        gateway.stop()
