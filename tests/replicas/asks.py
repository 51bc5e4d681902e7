"""A client of HTTP/1.1 that says exactly when a request was sent and when its answer was there."""

import asyncio
import itertools
import json
from dataclasses import dataclass

from machines import ADMIN_TOKEN, now

NUMBERS = itertools.count(1)


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

    def json(self):
        return json.loads(self.body)


async def ask(address, method, path, token=None, body=None, timeout=15.0, check=None):
    """One request on a connection of its own. Never repeated: a repeated one would have two moments of sending."""
    check = check or f"c{next(NUMBERS)}"
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address[0]}", "Connection: close", f"x-check: {check}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    sent, writer = now(), None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(*address)
            sent = now()
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            await writer.drain()
            whole = await reader.read()
            done = now()
    except (OSError, TimeoutError) as error:
        return Answer(0, b"", sent, now(), check, why=f"{type(error).__name__} {error}")
    finally:
        if writer:
            writer.close()
    head, _, rest = whole.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if fields.get(b"transfer-encoding") == b"chunked":
        rest, is_whole = dechunked(rest)
    else:
        is_whole = len(rest) >= int(fields.get(b"content-length", b"0"))
    if not head.startswith(b"HTTP/1.1 ") or not is_whole:
        return Answer(0, b"", sent, done, check, why="cut off")
    retry_after = fields.get(b"retry-after", b"").decode()
    return Answer(int(head[9:12]), rest, sent, done, check, retry_after)


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


async def operate(gateway, method, path, body=None, **options):
    """A request of the operator."""
    return await ask(gateway.admin, method, path, ADMIN_TOKEN, body, **options)
