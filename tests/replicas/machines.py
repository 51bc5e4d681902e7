"""What runs on the machines: the database, the gateways, the upstream behind them and the balancer in front."""

import asyncio
import base64
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from network import Machine, environment

PATIENCE = 60  # seconds, for anything that must become true
ADMIN_TOKEN = secrets.token_hex(24)
VAULT_KEY = secrets.token_bytes(32)
TICK = 0.05  # seconds between what the upstream sends on a stream


def now():
    """Seconds of the one clock that everything here is measured by; it runs on while processes are stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tool(name):
    """A program of PostgreSQL: in PATH, or where Debian puts it."""
    def version(folder):
        return int(folder.parent.name) if folder.parent.name.isdigit() else 0
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version, reverse=True)
    path = ":".join([*map(str, packaged), environment()["PATH"]])
    found = shutil.which(name, path=path)
    assert found, f"{name} is not installed: `make deps-wider` says how"
    return found


def server_user():
    """The user and the group that PostgreSQL runs as, which refuses to run as root."""
    import pwd
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
        except KeyError:
            pass
    raise AssertionError("there is no user `postgres` or `nobody`")


def end_of(path, size=3000):
    return path.read_text(errors="replace")[-size:] if path.exists() else ""


class Database:
    """PostgreSQL on a machine of its own."""

    def __init__(self, folder, pooled=False, **settings):
        self.machine, self.folder = Machine("db"), folder / "db"
        self.folder.mkdir()
        self.user = server_user()
        os.chown(self.folder, *self.user)
        self.log = folder / "postgres.log"
        self.settings = {
            "listen_addresses": "*", "port": "5432", "unix_socket_directories": str(self.folder), "shared_buffers": "64MB",
            "max_connections": "100", "timezone": "UTC", **settings}
        made = subprocess.run(
            self.as_server(tool("initdb"), "-D", self.data, "-A", "trust", "-U", "palisade", "-E", "UTF8", "--locale=C", "--no-sync"),
            capture_output=True, text=True, cwd=self.folder)
        assert made.returncode == 0, made.stderr
        with (self.data / "pg_hba.conf").open("a") as hba:
            hba.write("host all all 10.77.0.0/16 trust\n")
        self.process = self.pooler = None
        self.start()
        self.sql("CREATE DATABASE palisade", "postgres")
        if pooled:
            self.pool()

    @property
    def data(self):
        return self.folder / "data"

    def url(self, port=5432):
        return f"postgres://palisade@{self.machine.address}:{port}/palisade?sslmode=disable"

    def store(self):
        """Where replicas find it, as their configuration says it."""
        if self.pooler:
            return f'url = "{self.url(6432)}"\nfeed_url = "{self.url()}"\n'
        return f'url = "{self.url()}"\n'

    def pool(self):
        """Starts PgBouncer in transaction mode beside the server."""
        file = self.folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={self.folder} port=5432 user=palisade\n[pgbouncer]\nlisten_addr = *\nlisten_port = 6432\n"
            "unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 10\nmax_client_conn = 500\n"
            # It tries the server again after fifteen seconds by default, however soon that is back.
            "server_login_retry = 1\n")
        program = shutil.which("pgbouncer", path=environment()["PATH"])
        assert program, "pgbouncer is not installed: `make deps-wider` says how"
        with (self.folder.parent / "pgbouncer.log").open("wb") as out:
            self.pooler = subprocess.Popen(
                self.machine.command(*self.as_server(program, file)), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def as_server(self, *words):
        user, group = self.user
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *map(str, words)]

    def start(self):
        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        command = self.machine.command(*self.as_server(tool("postgres"), "-D", self.data, *settings))
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = now() + PATIENCE
        while self.run_sql("SELECT 1", "postgres").returncode != 0:
            assert self.process.poll() is None, end_of(self.log)
            assert now() < end, f"the database does not start:\n{end_of(self.log)}"
            time.sleep(0.05)

    def processes(self):
        """The server's, the postmaster first."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def signal(self, number):
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # it has ended since it was listed

    def pause(self):
        # The postmaster first, so that it starts no further process meanwhile.
        os.kill(self.process.pid, signal.SIGSTOP)
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def end(self):
        self.resume()
        self.kill()
        if self.pooler:
            self.pooler.kill()
            self.pooler.wait()

    def kill(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def run_sql(self, text, database="palisade", seconds=PATIENCE):
        """Asked by the server's socket, which no partition cuts."""
        command = [tool("psql"), "-h", str(self.folder), "-U", "palisade", "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment())

    def sql(self, text, database="palisade"):
        done = self.run_sql(text, database)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


class Gateway:
    """A replica on a machine of its own."""

    def __init__(self, name, palisade, folder, store, upstream_port, more="", sections="", variables=None):
        """`more` goes into `[server]`, `sections` behind all others, with `@APP@` for the app's address and `@ROUTER@`
        for the router's, and `variables` into the environment."""
        self.machine, self.name, self.palisade = Machine(name), name, palisade
        self.folder, self.log = folder / name, folder / f"{name}.log"
        self.folder.mkdir()
        # Whether it is to run: then it is started again when it ends, as a service is.
        self.wanted, self.ends = False, []
        self.process, self.variables = None, variables or {}
        app = f"http://{self.machine.router}:{upstream_port}"
        sections = sections.replace("@APP@", app).replace("@ROUTER@", self.machine.router)
        self.config = f"""
public_url = "http://gate.test"
[server]
listen = ["{self.machine.address}:8080"]
admin = "{self.machine.address}:9180"
shutdown_grace = "5s"
{more}
[browser]
insecure_http = true
[log]
access = false
audit = "file:./audit.log"
[store]
{store}
[vault]
keys = ["env:PALISADE_VAULT_KEY"]
[tokens]
access_ttl = "2h"
refresh_repeat = "1h"
[passwords]
bcrypt_cost = 4
[sessions]
max_per_user = 500
[limits]
enabled = false
[mail]
transport = "none"
[accounts]
registration = "closed"
[[routes]]
name = "app"
match = {{ path = "/" }}
upstream = ["{app}"]
{sections}
"""
        (self.folder / "config.toml").write_text(self.config)

    def environment(self):
        key = base64.urlsafe_b64encode(VAULT_KEY).decode().rstrip("=")
        return {**environment(), "PALISADE_ADMIN_TOKEN": ADMIN_TOKEN, "PALISADE_VAULT_KEY": key, **self.variables}

    def launch(self):
        """Starts it and does not wait."""
        self.wanted = True
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.machine.command(self.palisade, "run", "--config", str(self.folder / "config.toml")), cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment())

    def supervise(self):
        """Starts it again where it has ended by itself, as it does when its database goes away in the middle of its start."""
        if self.wanted and not self.runs():
            self.ends.append(self.process.returncode)
            self.launch()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.wanted = False
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.wanted = False
        self.process.terminate()

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def said(self):
        return self.log.read_text(errors="replace")

    @property
    def listen(self):
        return self.machine.address, 8080

    @property
    def admin(self):
        return self.machine.address, 9180


class Upstream:
    """The app behind the gateways: it notes what reaches it, and has a stream and a WebSocket that go on for a while.

    It listens at every address, so that each machine reaches it at its router."""

    def __init__(self):
        # When each request came, by its name, and of uploads when the last piece came.
        self.arrivals, self.uploads = {}, {}
        self.port = None
        self.server = None

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "0.0.0.0", 0, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked = re.search(rb"\r\nx-check: (\S+)", head, re.I)
                if asked:
                    self.arrivals.setdefault(asked[1].decode(), now())
                path = head.split(b" ", 2)[1]
                if path == b"/upload":
                    await self.take(reader, asked[1].decode())
                if path == b"/socket":
                    await self.talk(writer, head)
                    return
                if path != b"/stream":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    await writer.drain()
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                await self.tell(writer, lambda line: b"%x\r\n%s\r\n" % (len(line), line))
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, ValueError):
            pass  # the gateway has closed, at times within a chunk
        except asyncio.CancelledError:
            pass  # the story is over
        finally:
            writer.close()


    @staticmethod
    async def tell(writer, framed):
        """Says what time it is, again and again."""
        end = now() + 20
        while now() < end:
            writer.write(framed(f"{now():.6f}\n".encode()))
            await writer.drain()
            await asyncio.sleep(TICK)

    async def talk(self, writer, head):
        """A WebSocket (RFC 6455) that says what time it is in text frames."""
        key = re.search(rb"\r\nsec-websocket-key: (\S+)", head, re.I)[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept)
        await self.tell(writer, lambda line: bytes([0x81, len(line)]) + line)
        writer.write(b"\x88\x00")
        await writer.drain()

    async def take(self, reader, check):
        """Reads a chunked body, and notes when the last of it came."""
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
            self.uploads[check] = now()
        await reader.readline()


class Balancer:
    """HAProxy in front of the gateways, at a port of the router: one that asks them whether they are ready."""

    def __init__(self, folder, gateways, port=8000):
        self.address = ("127.0.0.1", port)
        servers = "\n".join(
            f"    server {gateway.name} {gateway.machine.address}:8080 check port 9180 inter 200ms fall 2 rise 2" for gateway in gateways)
        (folder / "haproxy.cfg").write_text(f"""
global
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch
frontend all
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    balance roundrobin
    option httpchk GET /readyz
    http-check send hdr Host localhost
{servers}
""")
        self.log = folder / "haproxy.log"
        haproxy = shutil.which("haproxy", path=environment()["PATH"])
        assert haproxy, "haproxy is not installed: `make deps-wider` says how"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen([haproxy, "-db", "-f", str(folder / "haproxy.cfg")], stdout=out, stderr=out)

    def stop(self):
        self.process.kill()
        self.process.wait()
