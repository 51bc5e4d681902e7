"""A provider's refresh is made once, however many callers ask three replicas for it; and a replica that is paused with the
provider's answer under way writes nothing over the tokens of its successor.
"""

import asyncio
import json
import re
import ssl
import subprocess
import urllib.parse

import mutations
from asks import ask, made_account, signed_in
from machines import now

CALLERS = 1000
LEASE = 2  # seconds, of the revocations
TERM = 60  # seconds, for which a replica claims a refresh
PAUSED_FOR = TERM + 2


class Provider:
    """An OAuth token endpoint. It takes a refresh token as often as it comes, as providers do for a while after its first
    use, and answers each time with other tokens, once `gate` is open."""

    def __init__(self, folder):
        self.folder, self.authority = folder, folder / "authority.pem"
        self.presented, self.server, self.port = [], None, None
        self.gate, self.came = asyncio.Event(), asyncio.Event()

    def certificates(self):
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        # The routers of all machines.
        names = ",".join(f"IP:10.77.{number}.1" for number in range(1, 100))
        subprocess.run([*new, "-subj", "/CN=authority", "-keyout", "authority.key", "-out", "authority.pem"],
                       cwd=self.folder, check=True, capture_output=True)
        subprocess.run([*new, "-subj", "/CN=shop", "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE",
                        "-CA", "authority.pem", "-CAkey", "authority.key", "-keyout", "shop.key", "-out", "shop.pem"],
                       cwd=self.folder, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "shop.pem", self.folder / "shop.key")
        return context

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "0.0.0.0", 0, backlog=1024, ssl=self.certificates())
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: (\d+)", head, re.I)
                form = urllib.parse.parse_qs((await reader.readexactly(int(length[1]) if length else 0)).decode())
                self.presented.append(form["refresh_token"][0])
                number, gate = len(self.presented), self.gate
                self.came.set()
                await gate.wait()
                body = json.dumps({"access_token": f"access-{number}", "refresh_token": f"refresh-{number}",
                                   "token_type": "Bearer", "expires_in": 36000}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the gateway has closed, or the story is over
        finally:
            writer.close()

    def shut(self):
        """Those that come from now on wait for the next opening, and are counted anew."""
        self.presented.clear()
        self.gate, self.came = asyncio.Event(), asyncio.Event()

    def config(self):
        return f"""
[connections]
keep_fresh = false
[[providers]]
name = "shop"
component = "builtin:oauth2"
client_id = "env:PROVIDER_CLIENT"
client_secret = "env:PROVIDER_SECRET"
allowed_hosts = ["@ROUTER@:{self.port}"]
allow_private = ["10.77.0.0/16"]
ca = "{self.authority}"
token_access = {{ email_verified = true }}
# Longer than it is paused for: the answer itself is in time.
limits = {{ deadline = "300s", request_timeout = "300s" }}
[providers.settings]
authorize_url = "https://@ROUTER@:{self.port}/authorize"
token_url = "https://@ROUTER@:{self.port}/token"
"""


class Overwritten(AssertionError):
    pass


async def story(run, options, folder):
    kept, mutated = folder / "kept", folder / "mutated"
    kept.mkdir()
    await told(run, options, kept)
    # Where the store lets a write pass that was decided on an earlier state, this has to be found.
    mutated.mkdir()
    try:
        await told(run, options, mutated, mutations.revision_goes_back)
    except Overwritten as found:
        print(f"        revision_goes_back was caught: {found}", flush=True)
    else:
        raise AssertionError("revision_goes_back: the story has found nothing")


async def told(run, options, folder, mutate=None):
    provider = Provider(folder)
    await provider.start()
    credentials = {"PROVIDER_CLIENT": "a client of the tests", "PROVIDER_SECRET": "a secret of the tests"}
    world = run.World(options, folder, lease=LEASE, sections=provider.config(),
                      variables={name: credentials for name in ("one", "two", "three")})
    try:
        await world.start()
        one, two, _ = world.replicas
        email = "ann@example.com"
        await made_account(one, email)
        token = (await signed_in(one, email))["access_token"]

        async def connected(expires_in):
            begun = await ask(one.listen, "POST", "/auth/connections", token, {"provider": "shop"})
            assert begun.status == 201, begun
            path = f"/auth/connections/{begun.json()['id']}"
            tokens = {"access_token": "access-0", "refresh_token": "refresh-0", "expires_in": expires_in}
            brought = await ask(two.listen, "PUT", f"{path}/tokens", token, tokens)
            assert brought.status in (200, 204), brought
            return path

        async def access(replica, path):
            answer = await ask(replica.listen, "GET", f"{path}/token", token, timeout=60)
            return answer.json()["access_token"] if answer.status == 200 else answer

        if not mutate:
            path = await connected(1)
            # It has ended then.
            await asyncio.sleep(2)
            await once(world, provider, path, access)
        await paused(world, options, provider, await connected(36000), access, token, mutate)
    finally:
        provider.server.close()
        await world.stop()


async def once(world, provider, path, access):
    provider.shut()
    begun = now()
    asking = [asyncio.create_task(access(world.replicas[number % 3], path)) for number in range(CALLERS)]
    await asyncio.wait_for(provider.came.wait(), 60)
    # They wait for one another meanwhile, and the other replicas for the claim.
    await asyncio.sleep(2)
    provider.gate.set()
    opened = now()
    brought = await asyncio.gather(*asking)
    others = [one for one in brought if one != "access-1"]
    assert not others, f"{len(others)} of {CALLERS} callers got no or another token: {others[0]}"
    assert len(provider.presented) == 1, provider.presented
    world.said(f"{CALLERS} callers at three replicas: 1 call of the provider; the last had its token {now() - opened:.1f}s after "
               f"its answer, which came {opened - begun:.1f}s after they began to ask")


async def paused(world, options, provider, path, access, token, mutate):
    one, two, three = world.replicas
    provider.shut()
    late = asyncio.create_task(ask(one.listen, "POST", f"{path}/refresh", token, {}, timeout=300))
    await asyncio.wait_for(provider.came.wait(), 30)
    one.pause()
    # Its answer waits in a socket of the replica that is paused.
    provider.gate.set()
    begun, connection = now(), path.rpartition("/")[2]
    of_connection = f"FROM palisade.connections WHERE id = '{connection}'"
    before = world.database.sql(f"SELECT revision {of_connection}")
    # Its lease of the revocations has to be over as well.
    await asyncio.sleep(LEASE + 1)
    if options.short or mutate:
        # The claims of work go by this function.
        world.database.sql(
            "CREATE OR REPLACE FUNCTION palisade.lease_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
            f"$$ SELECT pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => {PAUSED_FOR}) $$")
    while (answer := await ask(two.listen, "POST", f"{path}/refresh", token, {}, timeout=60)).status != 200:
        assert answer.status in (0, 409, 503), answer
        assert now() - begun < 2 * PAUSED_FOR, f"no successor has refreshed within {2 * PAUSED_FOR}s: {answer}"
        await asyncio.sleep(0.2)
    took = now() - begun
    assert provider.presented == ["refresh-0", "refresh-0"], provider.presented
    assert [await access(replica, path) for replica in (two, three)] == ["access-2"] * 2
    if mutate:
        mutate(world.database, connection, before)
    row = f"SELECT revision || ' ' || md5(body) {of_connection}"
    successors = world.database.sql(row)
    one.resume()
    answer = await late
    await world.ready()
    after = [await access(replica, path) for replica in world.replicas]
    if after != ["access-2"] * 3:
        raise Overwritten(f"the replica that was paused has written over its successor's tokens: {after}")
    assert world.database.sql(row) == successors, "the connection was written"
    # It goes on from the successor's tokens, also at the replica that was paused.
    again = await ask(one.listen, "POST", f"{path}/refresh", token, {}, timeout=60)
    assert again.status == 200 and provider.presented[-1] == "refresh-2", (again, provider.presented)
    world.said(f"a replica was paused for {now() - begun:.1f}s with its provider's answer under way; its successor refreshed after "
               f"{took:.1f}s, and it wrote nothing itself ({answer.status})")
