"""Paths as real servers read them: Tomcat, nginx and Express behind the gateway.

Each of them serves a public page, a page that only a token opens, and a page for everything else, and says which.
The gateway is sent generated paths without a token. Whatever it lets through, no server may answer with the closed
page; and what it lets through to the route of the public page or of the rest is counted, so that refusing
everything would not do. Each path is also sent to the servers themselves: enough of them must get past a
gateway that compares texts, or the paths would prove nothing.

The same is done with the other forms of rules: an exact path and one with a wildcard are closed in an open app, and
are public in a closed one.
"""

import json
import os
import random
import re
import socket
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "express"
# How many paths; each goes to each server twice.
PATHS = int(os.environ.get("PATHS", "2500"))
SEED = int(os.environ.get("SEED", "22"))

PIECES = (
    ["/"] * 8 + ["/..", "/../", "/..;/", "/..;a=b/", "..;/", "..", ".", "//", ";", ";a=b", ";/", "/;/", "%2F", "%2f", "%5C"]
    + ["%23", "%3F", "%3f", "%3B", "%00", "%20", "%25", "%2e", "%2E%2e", "%252e%252e", "%252F", "%252f", "%255C", "%255c"]
    + ["%2523", "%253F", "%253b", "%2500", "%2509", "%C0%AE", "%C0%AF", "%25u002e", "%EF%BC%8F", "+", "x", "secret", "a"]
    + ["admin", "admin", "admin", "ADMIN", "Admin", "%61dmin", "%2561dmin", "public", "public", "PUBLIC"]
)
KNOWN = [
    "/public/%23/..;/..;/admin/secret", "/public/%3f/..;/..;/admin/secret", "/public/%2523/..;/..;/admin/secret",
    "/public/%2500/..;/..;/admin/secret", "/public/..;/admin/x", "/public/;/../admin/x", "/;x/admin/x", "/admin;x/x",
    "/%3B%255C.+%252fadmin;", "/ADMIN/x", "//x/admin/x", "/%2Fx%2Fadmin/x", "/public/%252e%252e/admin/x",
    "/public/..%255cadmin/x", "/%2561dmin/x", "/public/..%2Fadmin/x", "//admin/x", "/admin%2Fx", "/public/%3F/../../admin/x",
]


# For the exact path and the wildcard.
FORMS = (
    ["/"] * 8 + ["/..", "/../", "/..;/", "..", ".", "//", ";", ";a=b", "/;/", "%2F", "%5C", "%23", "%3F", "%3B", "%20", "%25", "%2e"]
    + ["%252F", "%252e", "%2523", "%253F", "%253b", "%C0%AF", "x", "a", "files", "files", "FILES", "keys", "keys", "Keys"]
    + ["ping", "ping", "PING", "%70ing", "%2570ing", "%6beys", "%256beys", "public"]
)
KNOWN_FORMS = [
    "/ping", "/ping/", "/PING", "/ping;x", "/ping.", "/ping%20", "/ping%23", "/ping%3Fx", "/%2570ing", "//x/ping", "//ping", "/x/..;/ping",
    "/files/a/keys", "/files/a/keys/x", "/files/a/KEYS", "/files/;/a/keys", "/files/a;x/keys", "/files/a%2Fkeys", "/files//keys",
    "/files/a%2F../keys", "/files/%2e%2e/keys", "/files/a/b/keys", "/files/a%252Fkeys", "/files/a%23/keys", "/files/a/keys;x/y",
]


def paths():
    dice = random.Random(SEED)
    yield from KNOWN
    for _ in range(PATHS - len(KNOWN)):
        start = dice.choice(["/", "/", "/public/", "/public/", "/public", "/a/"])
        end = dice.choice(["", "", "admin/secret", "/admin/x", "..;/admin/x", "/..;/..;/admin/secret", "/../admin/x"])
        yield start + "".join(dice.choice(PIECES) for _ in range(dice.randint(0, 6))) + end


def form_paths():
    dice = random.Random(SEED)
    yield from KNOWN_FORMS
    for _ in range(PATHS // 2 - len(KNOWN_FORMS)):
        start = dice.choice(["/", "/ping", "/files/", "/files/a", "/files/a/keys", "/public/", "/x/"])
        end = dice.choice(["", "", "/keys", "keys/x", "/../ping", "ping", "..;/ping", "/"])
        yield start + "".join(dice.choice(FORMS) for _ in range(dice.randint(0, 4))) + end


class Connection:
    """Requests with any path, one after another; a new connection where the other side has closed the last."""

    def __init__(self, port):
        self.port, self.socket, self.rest = port, None, b""

    def get(self, path, host):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        for _ in range(2):
            fresh = self.socket is None
            if fresh:
                self.socket, self.rest = socket.create_connection(("127.0.0.1", self.port), timeout=30), b""
            try:
                self.socket.sendall(request)
                return self.read()
            except (ConnectionError, EOFError):
                self.close()
                if fresh:
                    return 0, b""
        return 0, b""

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None

    def more(self):
        piece = self.socket.recv(65536)
        if not piece:
            raise EOFError
        self.rest += piece

    def until(self, mark):
        while mark not in self.rest:
            self.more()
        part, self.rest = self.rest.split(mark, 1)
        return part

    def take(self, length):
        while len(self.rest) < length:
            self.more()
        part, self.rest = self.rest[:length], self.rest[length:]
        return part

    def read(self):
        head = self.until(b"\r\n\r\n").lower()
        status = int(head.split(b" ", 2)[1])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        body = b""
        if b"\r\ntransfer-encoding: chunked" in head:
            while size := int(self.until(b"\r\n").split(b";")[0], 16):
                body += self.take(size)
                self.take(2)
            self.until(b"\r\n")
        elif length:
            body = self.take(int(length.group(1)))
        elif status not in (204, 304):
            try:
                while True:
                    self.more()
            except EOFError:
                body = self.rest
                self.close()
        if b"\r\nconnection: close" in head:
            self.close()
        return status, body


PAGE = '<%@ page contentType="text/plain" %>served:<%= config.getServletName() %>\n'


def servlet(name, at):
    return (
        f"<servlet><servlet-name>{name}</servlet-name><jsp-file>/page.jsp</jsp-file></servlet>"
        f"<servlet-mapping><servlet-name>{name}</servlet-name><url-pattern>{at}</url-pattern></servlet-mapping>"
    )


WEB = (
    '<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0"><servlet><servlet-name>jsp</servlet-name>'
    "<servlet-class>org.apache.jasper.servlet.JspServlet</servlet-class></servlet>"
    + servlet("admin", "/admin/*") + servlet("public", "/public/*") + servlet("ping", "/ping") + servlet("other", "/") + "</web-app>"
)


def tomcat(run, folder, context="ROOT"):
    """Tomcat as it comes, and with everything decoded that it can be told to decode; the app is at `/context`."""
    homes = [os.environ.get("CATALINA_HOME"), "/usr/share/tomcat10", "/usr/share/tomcat",
             "/opt/homebrew/opt/tomcat/libexec", "/usr/local/opt/tomcat/libexec"]
    home = next((home for home in homes if home and (Path(home) / "bin" / "bootstrap.jar").is_file()), None)
    assert home, "tomcat is not installed: `make deps-wider` says how"
    strict, lax = run.free_port(), run.free_port()
    for name in ("conf", "lib", "logs", "temp", "work", f"webapps/{context}/WEB-INF"):
        (folder / name).mkdir(parents=True)
    compiler = Path("/usr/share/java/eclipse-jdt-core.jar")
    if compiler.is_file():
        (folder / "lib" / compiler.name).symlink_to(compiler)
    (folder / f"webapps/{context}/page.jsp").write_text(PAGE)
    (folder / f"webapps/{context}/WEB-INF/web.xml").write_text(WEB)
    (folder / "conf/server.xml").write_text(
        '<Server port="-1"><Service name="Catalina">'
        f'<Connector address="127.0.0.1" port="{strict}" maxKeepAliveRequests="-1"/>'
        f'<Connector address="127.0.0.1" port="{lax}" maxKeepAliveRequests="-1" allowBackslash="true"'
        ' encodedSolidusHandling="decode" encodedReverseSolidusHandling="decode"/>'
        '<Engine name="Catalina" defaultHost="app"><Host name="app" appBase="webapps" autoDeploy="false"/></Engine>'
        "</Service></Server>"
    )
    # As its own scripts start it, which not every distribution has.
    jars = ":".join(f"{home}/bin/{name}.jar" for name in ("bootstrap", "tomcat-juli"))
    places = [f"-Dcatalina.home={home}", f"-Dcatalina.base={folder}", f"-Djava.io.tmpdir={folder}/temp"]
    run.Process(
        [run.program("java"), "-Xmx128m", "-XX:+UseSerialGC", "-Djava.awt.headless=true", *places, "-cp", jars,
         "org.apache.catalina.startup.Bootstrap", "start"], folder)
    return {"tomcat": strict, "tomcat-lax": lax}


def nginx(run, folder, behind):
    """nginx as it comes, one that ignores case, and one that hands on what it has decoded, to be decoded again."""
    plain, caseless, again = run.free_port(), run.free_port(), run.free_port()
    (folder / "nginx.conf").write_text(f"""
daemon off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 100000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{plain};
        location = /admin {{ return 200 "served:admin\\n"; }}
        location /admin/ {{ return 200 "served:admin\\n"; }}
        location = /public {{ return 200 "served:public\\n"; }}
        location /public/ {{ return 200 "served:public\\n"; }}
        location = /ping {{ return 200 "served:ping\\n"; }}
        location ~ ^/files/[^/]+/keys(/|$) {{ return 200 "served:keys\\n"; }}
        location / {{ return 200 "served:other\\n"; }}
    }}
    server {{
        listen 127.0.0.1:{caseless};
        location ~* ^/admin(/|$) {{ return 200 "served:admin\\n"; }}
        location ~* ^/public(/|$) {{ return 200 "served:public\\n"; }}
        location ~* ^/ping$ {{ return 200 "served:ping\\n"; }}
        location ~* ^/files/[^/]+/keys(/|$) {{ return 200 "served:keys\\n"; }}
        location / {{ return 200 "served:other\\n"; }}
    }}
    server {{
        listen 127.0.0.1:{again};
        location / {{ proxy_pass http://127.0.0.1:{behind}$uri; }}
    }}
}}
""")
    run.Process([run.program("nginx"), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-p", str(folder)], folder)
    return {"nginx": plain, "nginx-caseless": caseless, "nginx-again": again}


def express(run, folder):
    installed = run.ROOT / "target" / "wider" / "express"
    (installed / "apps.mjs").write_text((FOLDER / "apps.mjs").read_text())
    servers = {name: run.free_port() for name in ("express", "express-files", "node-url", "node-twice")}
    environment = {**os.environ, "TMPDIR": str(folder)}
    run.Process([run.program("node"), str(installed / "apps.mjs"), *map(str, servers.values())], folder, env=environment)
    return servers


def route(name, host, at, auth, port, allow, public=()):
    return (
        f'[[routes]]\nname = "{name}"\nmatch = {{ host = "{host}", path = {json.dumps(at)} }}\nauth = "{auth}"\n'
        f'upstream = ["http://127.0.0.1:{port}"]\nallow = {allow}\n'
        + (f"public = {json.dumps(list(public))}\n" if public else "")
    )


def forms(name):
    """The exact path and the wildcard, as far as a server has them: a servlet is mapped to no wildcard in the middle."""
    return ["=/ping"] if "tomcat" in name or name == "nginx-again" else ["=/ping", "/files/*/keys"]


def page_of(body):
    found = re.search(rb"served:(\w+)", body)
    return found.group(1).decode() if found else ""


def story(run, folder):
    folders = {name: folder / f"paths-{name}" for name in ("tomcat", "nginx", "express", "gateway")}
    for name in ("tomcat", "nginx", "express"):
        folders[name].mkdir()
    begun = len(run.Process.running)
    try:
        servers = tomcat(run, folders["tomcat"])
        servers.update(nginx(run, folders["nginx"], servers["tomcat"]))
        servers.update(express(run, folders["express"]))
        for name, port in servers.items():
            for page in ("admin/x", "public/x"):
                run.until(f"{name} serves its pages", lambda: page_of(Connection(port).get(f"/{page}", name)[1]) == page[:-2])
        # Every server behind a gateway that lets through all it can be told to, and behind one as it comes.
        table, allow_all = "", '["encoded-slash", "empty-segment"]'
        for name, port in servers.items():
            for host, allow in ((name, '["encoded-slash", "empty-segment"]'), (f"{name}.strict", "[]")):
                table += route(f"{host}-rest", host, "/", "none", port, allow)
                table += route(f"{host}-public", host, "/public", "none", port, allow)
                table += route(f"{host}-admin", host, "/admin", "required", port, allow)
            table += route(f"{name}.forms-rest", f"{name}.forms", "/", "none", port, allow_all)
            table += route(f"{name}.forms-closed", f"{name}.forms", forms(name), "required", port, allow_all)
            table += route(f"{name}.open", f"{name}.open", "/", "required", port, allow_all, ["/public", *forms(name)])
        gateway = run.Gateway(folders["gateway"], "[log]\naccess = false\n" + table)
        compare(gateway, servers)
        compare_forms(gateway, servers)
    finally:
        for process in run.Process.running[begun:]:
            process.stop()


def compare(gateway, servers):
    all_paths = list(paths())
    for name, port in servers.items():
        direct, through = Connection(port), Connection(gateway.port)
        hidden = admitted = 0
        for path in all_paths:
            bare = page_of(direct.get(path, name)[1])
            hidden += bare == "admin" and not re.match(r"/admin(/|$)", path)
            for host in (name, f"{name}.strict"):
                status, body = through.get(path, host)
                page = page_of(body)
                assert page != "admin", f"{host}: GET {path} without a token was answered with the closed page ({status})"
                assert status in (200, 400, 401, 404, 501) or page or b"problem" not in body, f"{host}: GET {path}: {status} {body[:200]}"
                admitted += page in ("public", "other")
        print(f"        {name}: of {len(all_paths)} paths {hidden} hide the closed page; {admitted} of {2 * len(all_paths)} requests were served", flush=True)
        assert hidden >= 1, f"{name}: the paths prove nothing"
        assert admitted >= len(all_paths) // 50, f"{name}: nearly everything is refused"


def compare_forms(gateway, servers):
    all_paths = list(form_paths())
    for name, port in servers.items():
        direct, through = Connection(port), Connection(gateway.port)
        hidden = closed = opened = 0
        for path in all_paths:
            bare = page_of(direct.get(path, name)[1])
            hidden += bare in ("ping", "keys") and not re.match(r"/ping$|/files/[^/]+/keys(/|$)", path)
            status, body = through.get(path, f"{name}.forms")
            page = page_of(body)
            assert page not in ("ping", "keys"), f"{name}.forms: GET {path} without a token was answered with {page!r} ({status})"
            closed += page in ("public", "other")
            status, body = through.get(path, f"{name}.open")
            page = page_of(body)
            # A server of files says 404 for what is not there, in what is public too.
            assert status == 404 or page not in ("admin", "other"), f"{name}.open: GET {path} without a token was answered with {page!r} ({status})"
            opened += page in ("ping", "keys", "public")
        print(f"        {name}: of {len(all_paths)} paths {hidden} hide an exact page or one behind a wildcard; {closed} were served beside them, {opened} of what is public", flush=True)
        assert hidden >= 1, f"{name}: the paths prove nothing"
        assert min(closed, opened) >= 10, f"{name}: nearly everything is refused"
