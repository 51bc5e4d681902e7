"""A replica that starts over a large set of revocations: it is not ready, and admits nothing, until it has read them all."""

import asyncio
import re
from pathlib import Path

from asks import ask, operate
from machines import now

ISSUER = "http://gate.test"
LEASE = 5
# As the store keeps them: the kind, the length of the issuer, the issuer and the name.
FILL = f"""
INSERT INTO palisade.revocations
SELECT decode('01', 'hex') || int4send({len(ISSUER)}) || '{ISSUER}'::bytea || gen_random_uuid()::text::bytea,
    9223372036854775807, 4000000000, 1700000000, 1, NULL
FROM generate_series(1, %d)"""


def memory(replica):
    """Resident now, in MiB."""
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1]) / 1024


async def story(run, options, folder):
    count = 50_000 if options.short else 1_000_000
    world = run.World(options, folder, lease=LEASE)
    try:
        await world.start()
        one, two, three = world.replicas

        async def token_of(email):
            account = {"email": email, "password": run.load.PASSWORD, "email_verified": True}
            made = await operate(one, "POST", "/admin/v1/users", account)
            assert made.status == 201, made
            answer = await ask(two.listen, "POST", "/auth/login", body={"email": email, "password": run.load.PASSWORD})
            assert answer.status == 200, answer
            return answer.json()["access_token"]

        kept, ended = await token_of("kept@example.com"), await token_of("ended@example.com")
        # Of the kind that is read behind all single tokens.
        session = await ask(one.listen, "POST", "/auth/logout", ended)
        assert session.status == 204, session
        three.terminate()
        await asyncio.to_thread(three.process.wait, 60)
        begun = now()
        done = await asyncio.to_thread(world.database.run_sql, FILL % count, "palisade", 600)
        assert done.returncode == 0, done.stderr
        world.said(f"{count} revocations were put into the database in {now() - begun:.1f}s")
        three.launch()
        begun, ready, seen, revocations = now(), None, {}, []

        async def look(what, work):
            answer = await work
            seen.setdefault(what, {}).setdefault(answer.status, 0)
            seen[what][answer.status] += 1
            return answer

        async def revokes():
            """What another replica revokes meanwhile waits for no replica that is still reading."""
            while ready is None:
                minted = await operate(one, "POST", "/admin/v1/tokens", {"sub": "service"})
                revoked = await operate(one, "POST", "/admin/v1/revocations", {"token": minted.json()["access_token"]})
                assert revoked.status == 201, revoked
                revocations.append((minted.json()["access_token"], revoked.done - revoked.sent))
                await asyncio.sleep(0.1)

        revoking = asyncio.create_task(revokes())
        patience = 60 + count / 2000
        while ready is None:
            assert now() - begun < patience, f"it is not ready after {patience:.0f}s: {seen}"
            first = await look("a live token", ask(three.listen, "GET", "/", kept, timeout=5))
            await look("a revoked token", ask(three.listen, "GET", "/", ended, timeout=5))
            answer = await look("/readyz", ask(three.admin, "GET", "/readyz", timeout=5))
            if answer.status == 200:
                ready = now()
            else:
                assert first.status != 200, "it has admitted a token before it was ready"
            await asyncio.sleep(0.02)
        await revoking
        assert 200 not in seen["a revoked token"], seen
        assert seen["/readyz"].get(503), f"it was ready at once: {seen}"
        assert (await ask(three.listen, "GET", "/", kept)).status == 200
        for token in (ended, *(token for token, _ in revocations)):
            assert (await ask(three.listen, "GET", "/", token)).status == 401
        longest = max(took for _, took in revocations)
        assert longest < LEASE, f"a revocation has waited {longest:.1f}s while a replica was starting"
        metrics = (await ask(three.admin, "GET", "/metrics")).body.decode()
        took = re.findall(r"^palisade_feed_load_duration_seconds_sum\S* (\S+)$", metrics, re.M)
        seen_words = "; ".join(
            f"{what}: " + ", ".join(f"{number} {status or 'no answer'}" for status, number in counts.items()) for what, counts in seen.items())
        world.said(f"ready {ready - begun:.1f}s after its start ({', '.join(took)}s of reading); until then {seen_words}")
        world.said(f"{memory(three):.0f} MiB resident, {memory(one):.0f} MiB at a replica with an empty set: "
                   f"{(memory(three) - memory(one)) * 2**20 / count:.0f} bytes for each")
        world.said(f"{len(revocations)} revocations meanwhile, acknowledged within {longest * 1000:.0f} ms, and in force at its first request")
    finally:
        await world.stop()
