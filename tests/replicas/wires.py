"""What goes on for longer than a request and an answer: a download, a WebSocket and an upload, that a token has opened."""

import asyncio
import base64
import os

from asks import HOST, credential, new_check
from checker import Request, Stream
from machines import TICK, now

LONGEST = 25  # seconds, with an app that ends it earlier
UPLOAD = 12


async def wire(load, token, kind):
    """Opens one at any replica, and notes when the app sent the last of what came through, or had the last of what was sent."""
    replica, check, opened, status = load.any(), new_check(), now(), 0
    heard = {"last": 0.0}
    try:
        async with asyncio.timeout(LONGEST):
            reader, writer = await asyncio.open_connection(*replica.listen)
            try:
                opened = now()
                writer.write(head(kind, token, check))
                sending = asyncio.create_task(upload(writer)) if kind == "upload" else None
                try:
                    line = await reader.readline()
                    status = int(line.split()[1]) if line else 0
                    if status in (101, 200):
                        await HEARS[kind](reader, heard)
                finally:
                    if sending:
                        sending.cancel()
                        await asyncio.gather(sending, return_exceptions=True)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError, ValueError):
        pass  # cut: what came before counts
    finally:
        done = now()
        load.count(kind, status)
        load.history.requests.append(Request(token, replica.name, opened, done, status, check, kind))
        last = load.upstream.uploads.get(check, 0.0) if kind == "upload" else heard["last"]
        if last:
            load.history.streams.append(Stream(token, replica.name, opened, last, done))


def head(kind, token, check):
    lines = [f"{'POST' if kind == 'upload' else 'GET'} /{kind} HTTP/1.1", f"Host: {HOST}", f"x-check: {check}", *credential(token)]
    if kind == "socket":
        key = base64.b64encode(os.urandom(16)).decode()
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    else:
        lines.append("Connection: close")
    if kind == "upload":
        lines += ["Content-Type: application/octet-stream", "Transfer-Encoding: chunked"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def upload(writer):
    """A small chunk at a time; the app notes when it has each."""
    end = now() + UPLOAD
    while now() < end:
        writer.write(b"4\r\nmore\r\n")
        await writer.drain()
        await asyncio.sleep(TICK)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def lines(reader, heard):
    while line := await reader.readline():
        if b"." in line and line.strip().replace(b".", b"").isdigit():
            heard["last"] = float(line)


async def frames(reader, heard):
    """Text frames of a server, which are not masked, each shorter than 126 bytes."""
    await reader.readuntil(b"\r\n\r\n")
    while True:
        first, length = await reader.readexactly(2)
        content = await reader.readexactly(length)
        if first == 0x81:
            heard["last"] = float(content)
        elif first == 0x88:
            return


async def rest(reader, _):
    await reader.read()


HEARS = {"stream": lines, "socket": frames, "upload": rest}
