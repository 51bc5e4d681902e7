"""A record that an older replica could not read is written only once no such replica is registered.

The older replica is a row as it registers one, with a process that confirms it: programs of another release are not at
hand. What the gateways do about it is theirs alone.
"""

import asyncio
import json
import subprocess
import uuid

import machines
from asks import PASSWORD, ask, operate, signed_in
from machines import now

LEASE = 2
# What the older program knows of accounts: none with groups or a user name.
OLDER = {"user": 1, "task": 1}


class OlderReplica:
    """It confirms until it is killed, and follows the feed by nothing but its place."""

    def __init__(self, database, formats):
        self.id, self.database = str(uuid.uuid4()), database
        database.sql(
            "INSERT INTO palisade.replicas (id, name, program, formats, position, confirms, lease_ms, fail_open, key_ring) "
            f"SELECT '{self.id}', 'the older one', 1, '{json.dumps(formats)}', h.position, 1, {LEASE * 1000}, false, "
            "(SELECT max(key_ring) FROM palisade.replicas) FROM palisade.head h")
        confirm = (
            "DO $$ BEGIN LOOP "
            "UPDATE palisade.replicas SET confirms = confirms + 1, confirmed_at = clock_timestamp(), "
            f"position = (SELECT position FROM palisade.head) WHERE id = '{self.id}'; "
            "PERFORM pg_notify('palisade_confirmed', '0'); COMMIT; PERFORM pg_sleep(0.05); END LOOP; END $$")
        self.process = subprocess.Popen(
            [machines.tool("psql"), "-h", str(database.folder), "-U", "palisade", "-d", "palisade", "-XAtq", "-c", confirm],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**machines.environment(), "PGAPPNAME": self.id})

    def kill(self):
        # What it has asked for goes on without it.
        self.database.run_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{self.id}'")
        self.process.kill()
        self.process.wait()


async def story(run, options, folder):
    world = run.World(options, folder, lease=LEASE)
    older = None
    numbers = iter(range(1000))

    def account(**more):
        return {"email": f"person-{next(numbers)}@example.com", "password": PASSWORD, "email_verified": True, **more}

    async def make(replica, **more):
        return await operate(replica, "POST", "/admin/v1/users", account(**more))

    def versions():
        return world.database.sql("SELECT string_agg(DISTINCT version::text, ',' ORDER BY version::text) FROM palisade.users")

    try:
        await world.start()
        one, two, three = world.replicas
        known = json.loads(world.database.sql("SELECT formats FROM palisade.replicas LIMIT 1"))
        made = await make(one, name="Ann")
        assert made.status == 201 and versions() == "1", (made, versions())

        older = OlderReplica(world.database, {**known, **OLDER})
        refused = [await make(replica, groups=["staff"]) for replica in world.replicas]
        refused.append(await operate(two, "PATCH", f"/admin/v1/users/{made.json()['id']}", {"groups": ["staff"]}))
        for answer in refused:
            assert answer.status in (409, 503), answer
        assert versions() == "1", versions()
        world.said(f"beside an older replica, {len(refused)} writes of a newer record were refused: {refused[0].status} {refused[0].body.decode().strip()}")

        # Everything else goes on, and the older one is waited for like any other.
        plain = await make(two)
        assert plain.status == 201, plain
        granted = await signed_in(three, plain.json()["email"])
        refreshed = await ask(one.listen, "POST", "/auth/refresh", body={"refresh_token": granted["refresh_token"]})
        assert refreshed.status == 200, refreshed
        revoked = await operate(two, "POST", "/admin/v1/revocations", {"token": refreshed.json()["access_token"]})
        told = revoked.json()["acknowledged"]
        assert revoked.status == 201 and (told["confirmed"], told["lapsed"]) == (4, 0), revoked
        world.said(f"signing in, refreshing and revoking went on; the revocation: {told}")

        older.kill()
        begun = now()
        while (answer := await make(three, groups=["staff"])).status != 201:
            assert answer.status in (409, 503), answer
            assert now() - begun < 30, f"it is not written after 30s: {answer}"
            await asyncio.sleep(0.05)
        took = now() - begun
        assert versions() == "1,2", versions()
        assert took > LEASE, "the older replica was counted as gone while its lease stood"
        changed = await operate(two, "PATCH", f"/admin/v1/users/{made.json()['id']}", {"groups": ["staff"]})
        assert changed.status == 200, changed
        world.said(f"the newer record was written {took:.1f}s after the older replica was killed (lease {LEASE}s)")
    finally:
        if older:
            older.kill()
        await world.stop()
