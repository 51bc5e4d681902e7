"""What goes wrong, at random from a seed."""

import asyncio
import random
from contextlib import ExitStack

from machines import now
from network import Cut, both


class Faults:
    """Breaks replicas and the database, one thing after another and at times two at once, and mends each."""

    def __init__(self, seed, database, replicas, lease, said, history):
        self.random = random.Random(seed)
        self.database, self.replicas, self.lease = database, replicas, lease
        self.said, self.history = said, history
        # Taken while something that others must not touch as well is done to it.
        self.busy = set()
        # The one fault that happens, where not all of them are to.
        self.only = None
        self.counts = {}

    async def run(self, seconds):
        end = now() + seconds
        under_way = set()
        while now() < end:
            await asyncio.sleep(self.random.uniform(0.3, self.lease))
            under_way = {task for task in under_way if not task.done() or task.result()}
            if len(under_way) < 2:
                under_way.add(asyncio.create_task(self.one()))
        await asyncio.gather(*under_way)

    def free(self):
        return [replica for replica in self.replicas if replica.name not in self.busy]

    async def one(self):
        kinds = [(self.cut_off, 4), (self.cut_apart, 1), (self.pause, 4), (self.kill, 3), (self.terminate, 1)]
        if self.database:
            kinds += [(self.pause_database, 1), (self.kill_database, 1), (self.restart_database, 1), (self.cut_all, 1)]
        else:
            kinds = [(self.pause, 4), (self.kill, 3), (self.terminate, 1)]
        fault = self.only or self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        name = fault.__name__
        victim = "db" if name.endswith("database") or name == "cut_all" else None
        if victim is None:
            free = self.free()
            if not free:
                return
            replica = self.random.choice(free)
            victim = replica.name
        elif victim in self.busy:
            return
        self.busy.add(victim)
        self.counts[name] = self.counts.get(name, 0) + 1
        try:
            await (fault() if victim == "db" else fault(replica))
        finally:
            self.busy.discard(victim)

    def span(self, shortest=0.1):
        """How long it stays: from a moment to twice the lease."""
        return self.random.choice((shortest + self.random.random() * self.lease / 2, self.lease * self.random.uniform(0.8, 2.2)))

    async def for_a_while(self, what, span, *cuts):
        self.said(f"{what} for {span:.1f}s")
        with ExitStack() as stack:
            for cut in cuts:
                stack.enter_context(cut)
            await asyncio.sleep(span)

    async def cut_off(self, replica):
        """From the database: both ways, or one alone."""
        there, back = both(replica.machine, self.database.machine)
        ways, text = self.random.choice([((there, back), "both ways"), ((there,), "outwards"), ((back,), "inwards")])
        how = self.random.choice(("blackhole", "blackhole", "unreachable"))
        await self.for_a_while(f"{replica.name} is cut off from the database {text} ({how})", self.span(), Cut(*ways, how=how))

    async def cut_apart(self, replica):
        others = [other for other in self.replicas if other is not replica]
        cuts = [Cut(*both(replica.machine, other.machine)) for other in others]
        await self.for_a_while(f"{replica.name} is cut off from the other replicas", self.span(), *cuts)

    async def cut_all(self):
        cuts = [Cut(*both(replica.machine, self.database.machine)) for replica in self.replicas]
        await self.for_a_while("every replica is cut off from the database", self.span() / 2, *cuts)

    async def pause_within_lease(self, replica):
        """It goes on while it still believes its tokens, by its own lease."""
        await self.pause(replica, self.lease * self.random.uniform(0.4, 0.8))

    async def pause(self, replica, span=None):
        span = span or self.span()
        self.said(f"{replica.name} is paused for {span:.1f}s")
        replica.pause()
        process, begun = replica.process, now()
        await asyncio.sleep(span)
        # One whose start had just ended, with its database, was not stopped, and another runs in its place.
        if replica.process is process and replica.runs():
            # No later than it goes on.
            self.history.stopped[replica.name].append((begun, now()))
        replica.resume()

    async def kill(self, replica):
        span = self.span() / 2
        self.said(f"{replica.name} is killed and starts after {span:.1f}s")
        replica.kill()
        await asyncio.sleep(span)
        replica.launch()

    async def terminate(self, replica):
        self.said(f"{replica.name} is stopped and starts again")
        replica.terminate()
        await self.ended(replica.process)
        replica.launch()

    async def pause_database(self):
        span = self.span()
        self.said(f"the database is paused for {span:.1f}s")
        self.database.pause()
        await asyncio.sleep(span)
        self.database.resume()

    async def kill_database(self):
        span = self.span() / 2
        self.said(f"the database is killed and starts after {span:.1f}s")
        self.database.kill()
        await asyncio.sleep(span)
        await asyncio.to_thread(self.database.start)

    async def restart_database(self):
        self.said("the database is stopped and starts again")
        await asyncio.to_thread(self.database.stop)
        await asyncio.to_thread(self.database.start)

    async def ended(self, process):
        end = now() + 30
        while process.poll() is None:
            if now() > end:
                process.kill()
            await asyncio.sleep(0.05)
