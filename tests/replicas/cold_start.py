"""A replica that starts over a large set of revocations: it is not ready, and admits nothing, until it has read them all."""

import asyncio
import collections
import re
from pathlib import Path

from asks import ask, made_account, operate, signed_in
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
    count = 200_000 if options.short else 1_000_000
    world = run.World(options, folder, lease=LEASE)
    try:
        await world.start()
        one, two, three = world.replicas

        async def token_of(email):
            await made_account(one, email)
            return (await signed_in(two, email))["access_token"]

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
        patience = 60 + count / 2000

        async def looks(what, *request):
            """Asks again and again until it is ready, and once more."""
            nonlocal ready
            while True:
                assert now() - begun < patience, f"it is not ready after {patience:.0f}s: {seen}"
                is_last = ready is not None
                answer = await ask(*request, timeout=patience)
                seen.setdefault(what, []).append(answer)
                if what == "/readyz" and answer.status == 200:
                    ready = answer.done
                if is_last or ready and what == "/readyz":
                    return
                await asyncio.sleep(0.02)

        async def revokes():
            """What another replica revokes meanwhile waits for no replica that is still reading."""
            while ready is None:
                minted = await operate(one, "POST", "/admin/v1/tokens", {"sub": "service"})
                revoked = await operate(one, "POST", "/admin/v1/revocations", {"token": minted.json()["access_token"]})
                assert revoked.status == 201, revoked
                revocations.append((minted.json()["access_token"], revoked.done - revoked.sent))
                await asyncio.sleep(0.1)

        await asyncio.gather(
            looks("/readyz", three.admin, "GET", "/readyz"), looks("a live token", three.listen, "GET", "/", kept),
            looks("a revoked token", three.listen, "GET", "/", ended), revokes())

        def of(what, status):
            return [answer for answer in seen[what] if answer.status == status]

        assert of("/readyz", 503), "it was ready at once"
        not_ready = max(answer.sent for answer in of("/readyz", 503))
        early = [answer for answer in of("a live token", 200) if answer.done < not_ready]
        assert not early, f"it has admitted a token {not_ready - early[0].done:.2f}s before it said that it is not ready"
        assert not of("a revoked token", 200), "it has admitted a revoked token"
        assert (await ask(three.listen, "GET", "/", kept)).status == 200
        for token in (ended, *(token for token, _ in revocations)):
            assert (await ask(three.listen, "GET", "/", token)).status == 401
        longest = max(took for _, took in revocations)
        assert longest < LEASE, f"a revocation has waited {longest:.1f}s while a replica was starting"
        metrics = (await ask(three.admin, "GET", "/metrics")).body.decode()
        took = re.findall(r"^palisade_feed_load_duration_seconds_sum\S* (\S+)$", metrics, re.M)
        counts = {what: collections.Counter(answer.status or "no answer" for answer in answers) for what, answers in seen.items()}
        words = "; ".join(f"{what}: " + ", ".join(f"{n} {status}" for status, n in each.items()) for what, each in counts.items())
        longest_wait = max(answer.done - answer.sent for answer in seen["a live token"])
        world.said(f"ready {ready - begun:.1f}s after its start, of which it read for {', '.join(took)}s; meanwhile {words}; "
                   f"a request waited for up to {longest_wait:.1f}s")
        world.said(f"{memory(three):.0f} MiB resident, {memory(one):.0f} MiB at a replica with an empty set: "
                   f"{(memory(three) - memory(one)) * 2**20 / count:.0f} bytes for each")
        world.said(f"{len(revocations)} revocations meanwhile, acknowledged within {longest * 1000:.0f} ms, and in force at its first request")
    finally:
        await world.stop()
