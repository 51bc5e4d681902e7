"""How long a revocation takes until the last replica refuses its token."""

import asyncio

from asks import ask, operate


async def story(run, options, folder):
    count = 500 if options.short else 10_000
    world = run.World(options, folder, lease=5)
    everywhere, acknowledged, late = [], [], 0

    async def refused(replica, token):
        """When the first request was sent that was refused here."""
        while True:
            answer = await ask(replica.listen, "GET", "/", token)
            if answer.status == 401:
                return answer.sent
            # One that is under way when the revocation comes is cut off.
            assert answer.status in (0, 200), answer

    try:
        await world.start()
        for number in range(count):
            minted = await operate(world.replicas[number % len(world.replicas)], "POST", "/admin/v1/tokens", {"sub": f"s{number}"})
            token = minted.json()["access_token"]
            for replica in world.replicas:
                answer = await ask(replica.listen, "GET", "/", token)
                assert answer.status == 200, answer
            writer = world.replicas[(number + 1) % len(world.replicas)]
            revoked, *seen = await asyncio.gather(
                operate(writer, "POST", "/admin/v1/revocations", {"token": token}), *(refused(replica, token) for replica in world.replicas))
            assert revoked.status == 201, revoked
            everywhere.append(max(seen) - revoked.sent)
            acknowledged.append(revoked.done - revoked.sent)
            # Refused first by a request that was sent after the acknowledgement: none before it was admitted later.
            late += any(await asyncio.gather(*(admits(replica, token) for replica in world.replicas)))
        assert not late, f"{late} revocations were not in force everywhere once they were acknowledged"
        world.said(run.spans("refused everywhere after", everywhere))
        world.said(run.spans("acknowledged after", acknowledged))
    finally:
        await world.stop()


async def admits(replica, token):
    return (await ask(replica.listen, "GET", "/", token)).status == 200
