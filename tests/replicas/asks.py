"""A client of HTTP/1.1 that says exactly when a request was sent and when its answer was there."""

import asyncio
import itertools
import json
from dataclasses import dataclass, field

from machines import ADMIN_TOKEN, now

NUMBERS = itertools.count(1)
# What `public_url` says, where session cookies are for.
HOST = "gate.test"
# How the name of the session cookie begins a credential that is one.
COOKIE = "palisade="
# Of every account.
PASSWORD = "Correct horse 42 staple"


@dataclass
class Answer:
    """`status` is 0 where no whole answer came: then it is not known what was done."""

    status: int
    body: bytes
    sent: float
    done: float
    check: str
    retry_after: str = ""
    why: str = ""
    fields: dict = field(default_factory=dict)

    def json(self):
        return json.loads(self.body)


def request(host, method, path, token, body, check, keep=False):
    """The bytes of a request. A `token` that begins with the name of the cookie is one, sent as from a page of our own."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"x-check: {check}"]
    if not keep:
        lines.append("Connection: close")
    lines += credential(token)
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def credential(token):
    """The header fields that bring a token or a cookie. `COOKIE` alone stands for a browser without one."""
    if not token:
        return []
    if token.startswith(COOKIE):
        page = [f"Origin: http://{HOST}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"]
        return page if token == COOKIE else [f"Cookie: {token}", *page]
    return [f"Authorization: Bearer {token}"]


def new_check():
    return f"c{next(NUMBERS)}"


async def ask(address, method, path, token=None, body=None, timeout=15.0, check=None, host=None):
    """One request on a connection of its own. Never repeated: a repeated one would have two moments of sending."""
    check = check or new_check()
    data, sent, writer = request(host or address[0], method, path, token, body, check), now(), None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(*address)
            sent = now()
            writer.write(data)
            await writer.drain()
            whole = await reader.read()
            done = now()
    except (OSError, TimeoutError) as error:
        return Answer(0, b"", sent, now(), check, why=f"{type(error).__name__} {error}")
    finally:
        if writer:
            writer.close()
    head, _, rest = whole.partition(b"\r\n\r\n")
    fields = fields_of(head)
    if fields.get(b"transfer-encoding") == b"chunked":
        rest, is_whole = dechunked(rest)
    else:
        is_whole = len(rest) >= int(fields.get(b"content-length", b"0"))
    if not head.startswith(b"HTTP/1.1 ") or not is_whole:
        return Answer(0, b"", sent, done, check, why="cut off")
    retry_after = fields.get(b"retry-after", b"").decode()
    return Answer(int(head[9:12]), rest, sent, done, check, retry_after, fields=fields)


def fields_of(head):
    """The header fields, with their names in lower case."""
    pairs = (line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


def dechunked(data):
    """The body, and whether its end was there."""
    body = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            return body, False
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return body, True
        body, data = body + data[:length], data[length + 2:]


class KeptConnections:
    """Connections to a gateway that stay open from one request to the next, as those of browsers and balancers do."""

    def __init__(self, address):
        self.address, self.idle = address, []
        # How many requests were sent on a connection that had served one before.
        self.reused = 0

    async def ask(self, method, path, token=None, timeout=15.0, host=None):
        """One request without a body, on a connection that was used before, if there is one. Never repeated."""
        check, sent, pair = new_check(), now(), None
        try:
            async with asyncio.timeout(timeout):
                if self.idle:
                    pair = self.idle.pop()
                    self.reused += 1
                else:
                    pair = await asyncio.open_connection(*self.address)
                reader, writer = pair
                sent = now()
                writer.write(request(host or self.address[0], method, path, token, None, check, keep=True))
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                fields = fields_of(head)
                if fields.get(b"transfer-encoding") == b"chunked":
                    body = b""
                    while size := int((await reader.readline()).split(b";")[0], 16):
                        body += (await reader.readexactly(size + 2))[:-2]
                    await reader.readline()
                else:
                    body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
                done = now()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            if pair:
                pair[1].close()
            return Answer(0, b"", sent, now(), check, why=f"{type(error).__name__} {error}")
        if fields.get(b"connection", b"").lower() == b"close":
            writer.close()
        else:
            self.idle.append(pair)
        return Answer(int(head[9:12]), body, sent, done, check, fields=fields)

    def close(self):
        while self.idle:
            self.idle.pop()[1].close()


async def operate(gateway, method, path, body=None, **options):
    """A request of the operator."""
    return await ask(gateway.admin, method, path, ADMIN_TOKEN, body, **options)


async def made_account(replica, email, **more):
    """An account whose address is verified."""
    body = {"email": email, "password": PASSWORD, "email_verified": True, **more}
    made = await operate(replica, "POST", "/admin/v1/users", body)
    assert made.status == 201, made
    return made.json()


async def signed_in(replica, email):
    """What signing in there gives."""
    answer = await ask(replica.listen, "POST", "/auth/login", body={"email": email, "password": PASSWORD})
    assert answer.status == 200, answer
    return answer.json()
