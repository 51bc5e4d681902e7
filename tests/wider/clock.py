"""A machine whose clock jumps 400 days ahead and back, over a stop and while the gateway runs: no revocation is
forgotten, and the operator is told what to do.

libfaketime sets the wall clock of the process, and leaves its uptime, as a wrong clock of a machine does.
"""

import os
import re
import subprocess
import sys

JUMP = "+400d"
# Seconds are whole ones, so that one may be missing.
SPAN = "(400 days|399 days 23 h)"
PROMISE = "revokes every access token signed so far"


def library():
    """The library that `faketime` has its programs load."""
    if sys.platform != "linux":
        return None
    command = ["faketime", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def story(run, folder):
    run.program("faketime")
    preload = library()
    if not preload:
        raise run.LeftOut("only libfaketime for Linux was tried with it")
    offset = folder / "offset"

    def jump(to):
        # Replaced, not written: the gateway reads it at every look at the clock.
        draft = folder / "offset.new"
        draft.write_text(to + "\n")
        draft.rename(offset)

    class Elsewhen(run.Gateway):
        def start(self, ready=True):
            faked = {
                "LD_PRELOAD": preload,
                "DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_TIMESTAMP_FILE": str(offset),
            }
            self.process = run.Process([run.PALISADE, "run", *self.flags], self.folder, env={**os.environ, **faked})
            run.until("the gateway is ready", lambda: self.process.alive() and run.fetch(self.admin + "/readyz")[0] == 200)

    jump("+0")
    gateway = Elsewhen(folder / "clock", run.APP, "--demo")

    def mint(*more):
        return gateway.cli("token", "mint", "--sub", "alice", *more)

    def status(token):
        return run.fetch(gateway.url + "/", {"Authorization": f"Bearer {token}"})[0]

    def warnings():
        return [line for line in gateway.process.said().splitlines() if " WARN " in line and "clock" in line]

    def metric(name):
        return float(re.search(rf"^{name} (\S+)$", run.fetch(gateway.admin + "/metrics")[1], re.M)[1])

    try:
        revoked, kept = mint("--ttl", "1h"), mint("--ttl", "24h")
        gateway.cli("token", "revoke", revoked)
        assert (status(revoked), status(kept)) == (401, 200)
        assert warnings() == [], warnings()
        assert "in doubt    no" in gateway.cli("clock")

        # Stopped, and started 400 days later by the clock.
        assert gateway.stop() == 0
        jump(JUMP)
        gateway.start()
        told = warnings()
        assert len(told) == 1 and re.search(f"{SPAN} ahead of", told[0]) and "`palisade clock accept`" in told[0], told
        assert PROMISE not in told[0], told
        assert "in doubt" in run.fetch(gateway.admin + "/readyz")[1]
        shown = gateway.cli("clock")
        assert "in doubt    yes" in shown and re.search(f"Delayed by {SPAN}", shown), shown
        assert metric("palisade_clock_in_doubt") == 1 and metric("palisade_revocations") == 1
        # By this clock both have ended long ago.
        assert (status(revoked), status(kept)) == (401, 401)
        later, later_revoked = mint(), mint()
        gateway.cli("token", "revoke", later_revoked)
        assert (status(later), status(later_revoked)) == (200, 401)

        # Set right while it runs.
        jump("+0")
        told = run.until("the end of the doubt is told", lambda: warnings()[1:])
        assert len(told) == 2 and "not in doubt any more" in told[0] and PROMISE in told[1], told
        assert metric("palisade_clock_in_doubt") == 0 and metric("palisade_revocations") == 2
        assert (status(revoked), status(kept), status(later)) == (401, 200, 401), (status(revoked), status(kept), status(later))
        # As every start says until it is settled.
        gateway.restart()
        told = warnings()
        assert len(told) == 1 and PROMISE in told[0], told
        assert "once showed" in gateway.cli("clock")
        said = gateway.cli("clock", "accept")
        assert "every access token signed so far was revoked" in said, said
        assert "once showed" not in gateway.cli("clock")
        new = mint()
        assert (status(kept), status(new)) == (401, 200)

        # Ahead again, while it runs: when that is accepted, the tokens of before have ended for good.
        jump(JUMP)
        run.until("the doubt is told", lambda: [line for line in warnings() if re.search(f"{SPAN} ahead of", line)])
        assert status(new) == 401
        said = gateway.cli("clock", "accept")
        assert "revoked" not in said and "in doubt    no" in gateway.cli("clock"), said

        # And that was wrong.
        jump("+0")
        told = run.until("the doubt is told", lambda: [line for line in warnings() if re.search(f"{SPAN} behind", line)])
        assert PROMISE in told[0], told
        newer = mint()
        assert status(newer) == 200
        assert "every access token signed so far was revoked" in gateway.cli("clock", "accept")
        last = mint()
        gateway.restart()
        assert warnings() == [], warnings()
        assert [status(token) for token in (revoked, kept, later, new, newer, last)] == [401] * 5 + [200]
    finally:
        gateway.stop()
