"""A rolling upgrade of three replicas behind a balancer, under load, and one replica taken back: no request fails."""

import asyncio
import collections
import hashlib
import json
from pathlib import Path

import machines
from asks import PASSWORD, ask, made_account
from machines import now

# The balancer looks every 200 ms and turns away after two refusals.
SERVER = 'shutdown_delay = "2s"'
# The number of a program of the far future.
NEWER = 9999


def digest(program):
    with Path(program).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def programs(options, folder):
    """The older program and the newer one, each under a name of its own, and whether they are two."""
    old, new = folder / "palisade-old", folder / "palisade-new"
    old.symlink_to(Path(options.older or options.palisade).resolve())
    new.symlink_to(options.palisade)
    return old, new, digest(old) != digest(new)


async def story(run, options, folder):
    world = run.World(options, folder, lease=5, server=SERVER)
    old, new, are_two = programs(options, folder)
    if are_two:
        print(f"        from program {digest(old)} (--older) to {digest(new)}", flush=True)
    else:
        print(f"        one program, {digest(new)}, under two names: `--older FILE` upgrades from another one", flush=True)
    balancer, ends = None, False
    counts, failed, slowest = {}, [], 0.0
    options = type(options)(**{**vars(options), "palisade": str(old)})
    world.options = options
    try:
        await world.start()
        balancer = machines.Balancer(folder, world.replicas)
        email = "ann@example.com"
        await made_account(world.replicas[0], email, name="Ann")
        end = now() + 30
        while (await ask(balancer.address, "GET", "/")).status != 401:
            assert now() < end, "the balancer does not serve"
            await asyncio.sleep(0.1)

        async def step(what, expected, *request):
            nonlocal slowest
            answer = await ask(balancer.address, *request)
            counts[what] = counts.get(what, 0) + 1
            slowest = max(slowest, answer.done - answer.sent)
            if answer.status != expected:
                failed.append(f"{what}: {answer.status} {answer.why} {answer.body[:200]!r}")
            return answer

        async def person():
            while not ends:
                answer = await step("login", 200, "POST", "/auth/login", None, {"email": email, "password": PASSWORD})
                if answer.status != 200:
                    continue
                for _ in range(4):
                    granted = answer.json()
                    for _ in range(5):
                        await step("request", 200, "GET", "/", granted["access_token"])
                    body = {"refresh_token": granted["refresh_token"]}
                    answer = await step("refresh", 200, "POST", "/auth/refresh", None, body)
                    if answer.status != 200:
                        break
                else:
                    token = answer.json()["access_token"]
                    await step("logout", 204, "POST", "/auth/logout", token)
                    await step("request after logout", 401, "GET", "/", token)

        people = [asyncio.create_task(person()) for _ in range(8)]
        await asyncio.sleep(2)
        steps = [(replica, new, "upgraded") for replica in world.replicas]
        # What the newer program has written meanwhile is there for the older one, too.
        steps += [(world.replicas[-1], old, "taken back"), (world.replicas[-1], new, "upgraded again")]
        for replica, program, how in steps:
            begun = now()
            replica.terminate()
            await asyncio.to_thread(replica.process.wait, 60)
            assert replica.process.returncode == 0, machines.end_of(replica.log)
            replica.palisade = str(program)
            replica.launch()
            await world.ready()
            # Two good looks of the balancer, and some time of all three.
            await asyncio.sleep(1.5)
            world.said(f"{replica.name} was {how} in {now() - begun:.1f}s; {registered(world.database)}")
        ends = True
        await asyncio.gather(*people)
        world.said(", ".join(f"{count} of {what}" for what, count in sorted(counts.items())) + f"; the slowest took {slowest:.2f}s")
        assert not failed, f"{len(failed)} of {sum(counts.values())} failed:\n" + "\n".join(failed[:10])
        assert not any(replica.ends for replica in world.replicas), "a replica has ended by itself"
        await left_behind(world)
    finally:
        if balancer:
            balancer.stop()
        await world.stop()


def registered(database):
    """What the replicas have told of themselves, and how many say the same."""
    told = collections.Counter(database.sql("SELECT program || '|' || formats FROM palisade.replicas").splitlines())
    def words(row):
        program, formats = row.split("|", 1)
        kinds = ", ".join(f"{kind} {version}" for kind, version in sorted(json.loads(formats).items()) if version > 1)
        return f"program {program} with {kinds}"
    return "; ".join(f"{count} say {words(row)}" for row, count in told.items())


async def left_behind(world):
    """A program that the tables have left behind does not start, and those that run serve on."""
    world.database.sql(f"INSERT INTO palisade.migrations (number, oldest_program) VALUES ({NEWER}, {NEWER})")
    older, *others = world.replicas
    older.terminate()
    await asyncio.to_thread(older.process.wait, 60)
    before = len(older.said())
    older.launch()
    older.wanted = False
    code = await asyncio.to_thread(older.process.wait, 60)
    said = older.said()[before:]
    assert code != 0 and str(NEWER) in said, f"it ended with {code}:\n{said[-2000:]}"
    for other in others:
        assert (await ask(other.admin, "GET", "/readyz")).status == 200, machines.end_of(other.log)
    why = next(line for line in said.splitlines() if str(NEWER) in line)
    world.said(f"an older program is refused: {why.strip()}")
