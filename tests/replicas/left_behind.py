"""Connections of a replica that is cut off: the database gives them up as soon as the replica does."""

import asyncio

from machines import now
from network import Cut, both

# By the defaults of the system it takes the server two hours.
WITHIN = 30


async def story(run, options, folder):
    world = run.World(options, folder, lease=2)
    try:
        await world.start()
        replica = world.replicas[0]
        count = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{}'".format(replica.machine.address)

        def connections():
            return int(world.database.sql(count))

        before, begun = connections(), now()
        assert before > 2, f"{replica.name} has {before} connections"
        with Cut(*both(replica.machine, world.database.machine)):
            while left := connections():
                assert now() - begun < WITHIN, f"{left} of {before} connections are still there after {WITHIN} s"
                await asyncio.sleep(0.2)
            world.said(f"{before} connections were given up within {now() - begun:.1f}s of the cut")
        await world.ready()
    finally:
        await world.stop()
