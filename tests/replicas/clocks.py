"""Replicas whose wall clocks are apart: what one of them has revoked is admitted at none, whatever their clocks show.

libfaketime sets the wall clock of a process and leaves the clock that leases go by, as a wrong clock of a machine does.
"""

import asyncio
import base64
import itertools
import json
import os
import re
import subprocess
import sys
import time
import uuid

import machines
from asks import ask, made_account, operate, signed_in
from machines import now

LEEWAY = 60  # seconds, of tokens.leeway
THEIRS = "https://issuer.test"
KINDS = ("token", "session", "subject", "logout", "operator")


def library(run):
    """The library that `faketime` has its programs load."""
    if not machines.shutil.which("faketime", path=machines.environment()["PATH"]):
        raise run.LeftOut("there is no `faketime`: `make deps-wider` installs it")
    command = ["faketime", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def variables(preload, seconds):
    return {"LD_PRELOAD": preload, "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKETIME": f"{seconds:+d}s"}


def is_real(preload):
    """That it moves the wall clock and nothing else, as a program sees it."""
    look = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True,
                          env={**os.environ, **variables(preload, 300)})
    wall, uptime = map(float, done.stdout.split())
    assert 299 <= wall - time.time() <= 301, wall - time.time()
    assert -5 < uptime - now() <= 0, uptime - now()


class Issuer:
    """Another issuer, whose clock is right."""

    def __init__(self, folder):
        self.folder, self.key = folder, folder / "issuer.pem"
        self.openssl("genpkey", "-algorithm", "ed25519", "-out", self.key)
        public = self.openssl("pkey", "-in", self.key, "-pubout", "-outform", "DER")[-32:]
        self.keys = folder / "issuer.json"
        self.keys.write_text(json.dumps({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "use": "sig", "x": encoded(public)}]}))

    @staticmethod
    def openssl(*words):
        return subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True).stdout

    def config(self):
        return f"""
[[issuers]]
issuer = "{THEIRS}"
jwks = "file:{self.keys}"
audiences = ["api"]
algorithms = ["EdDSA"]
[[routes]]
name = "theirs"
match = {{ path = "/theirs" }}
issuers = ["{THEIRS}"]
upstream = ["@APP@"]
"""

    def token(self, subject):
        at = int(time.time())
        parts = ({"alg": "EdDSA", "kid": "one", "typ": "JWT"},
                 {"iss": THEIRS, "aud": "api", "sub": subject, "iat": at, "exp": at + 7200, "jti": str(uuid.uuid4())})
        signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        file = self.folder / "signed"
        file.write_text(signed)
        return f"{signed}.{encoded(self.openssl('pkeyutl', '-sign', '-rawin', '-inkey', self.key, '-in', file))}"


def encoded(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def story(run, options, folder):
    preload = library(run)
    is_real(preload)
    for seconds in (25,) if options.short else (4, 25, 300, 1200):
        own = folder / f"apart-{seconds}"
        own.mkdir()
        await apart(run, options, own, preload, {"one": seconds, "two": 0, "three": -seconds})
    # Beside everything else that breaks, as far apart as it costs no session (`repeated`).
    own = folder / "broken"
    own.mkdir()
    clocks = {name: variables(preload, seconds) for name, seconds in (("one", 4), ("two", 0), ("three", -4))}
    await run.broken(options, own, 15 if options.short else 120, 2, options.seed, variables=clocks)


async def apart(run, options, folder, preload, offsets):
    issuer = Issuer(folder)
    clocks = {name: variables(preload, seconds) for name, seconds in offsets.items()}
    world = run.World(options, folder, lease=2, sections=issuer.config(), variables=clocks)
    try:
        await world.start()
        for replica in world.replicas:
            shown = (await operate(replica, "GET", "/admin/v1/clock")).json()
            moved = shown["wall"] - time.time()
            assert abs(moved - offsets[replica.name]) < 3, f"{replica.name} is {moved:.0f}s off, not {offsets[replica.name]}s"
        await revoked_everywhere(world, offsets)
        await theirs_revoked_everywhere(world, offsets, issuer)
        await repeated(world, offsets)
        for replica in world.replicas:
            world.said(f"{replica.name}, at {offsets[replica.name]:+d}s, says of its clock: {await told(replica)}")
    finally:
        await world.stop()


async def told(replica):
    """What a replica tells of its clock."""
    metrics = (await ask(replica.admin, "GET", "/metrics")).body.decode()
    values = [f"{name} {value}" for name, value in re.findall(r"^palisade_(clock_(?:in_doubt|skew_seconds)) (\S+)$", metrics, re.M)]
    ready = await ask(replica.admin, "GET", "/readyz")
    lines = [line for line in replica.said().splitlines() if " WARN " in line and "clock" in line]
    command = replica.machine.command(replica.palisade, "check", "--connect", "--config", str(replica.folder / "config.toml"))
    checked = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=replica.folder, env=replica.environment())
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = [line for line in (checked.stdout + checked.stderr).splitlines() if "clock" in line]
    return f"{', '.join(values)}, /readyz {ready.status}, {len(lines)} warnings, {len(found)} lines of `check --connect`"


async def revoked_everywhere(world, offsets):
    """Every kind of revocation, asked of each replica, of tokens that each has signed."""
    admitted, refused_before, late, count = 0, {}, [], 0
    for signer, writer, kind in itertools.product(world.replicas, world.replicas, KINDS):
        count += 1
        email = f"{signer.name}-{writer.name}-{kind}@example.com"
        subject = (await made_account(writer, email))["id"]
        granted = await signed_in(signer, email)
        token = granted["access_token"]
        for replica in world.replicas:
            answer = await ask(replica.listen, "GET", "/", token)
            ahead = offsets[signer.name] - offsets[replica.name]
            if answer.status == 200:
                admitted += 1
            else:
                assert answer.status == 401 and ahead >= LEEWAY, (signer.name, replica.name, answer)
                refused_before[answer.json()["code"]] = refused_before.get(answer.json()["code"], 0) + 1
            assert answer.status == 401 or ahead <= LEEWAY + 2, "a token from the future is admitted"
        answer = await revoke(writer, kind, token, subject)
        if answer is None:
            # The writer does not believe the token yet, and ends no session by it.
            count -= 1
            continue
        assert answer.status in (200, 201, 204), (kind, answer)
        for replica in world.replicas:
            again = await ask(replica.listen, "GET", "/", token)
            if again.status != 401:
                late.append(f"{kind} of {signer.name} at {writer.name}: admitted at {replica.name} ({again.status})")
            if kind != "token":
                exchanged = await ask(replica.listen, "POST", "/auth/refresh", body={"refresh_token": granted["refresh_token"]})
                if exchanged.status != 401:
                    late.append(f"{kind} of {signer.name} at {writer.name}: refreshed at {replica.name} ({exchanged.status})")
    assert not late, f"{len(late)} breaches:\n" + "\n".join(late[:20])
    world.said(f"{count} revocations of every kind, by and of every replica: 0 admitted afterwards; before them {admitted} admitted, "
               f"refused {refused_before or 0}")


async def revoke(writer, kind, token, subject):
    if kind == "logout":
        answer = await ask(writer.listen, "POST", "/auth/logout", token)
        return None if answer.status == 401 else answer
    if kind == "operator":
        return await operate(writer, "DELETE", f"/admin/v1/users/{subject}/sessions")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    body = {"token": {"token": token}, "session": {"sid": claims["sid"]}, "subject": {"sub": subject}}[kind]
    return await operate(writer, "POST", "/admin/v1/revocations", body)


async def repeated(world, offsets):
    """One refresh token at two replicas at once, as of a browser with two tabs."""
    email, ended, tries = "tabs@example.com", [], 0
    await made_account(world.replicas[0], email)
    for first, second in itertools.permutations(world.replicas, 2):
        tries += 1
        body = {"refresh_token": (await signed_in(first, email))["refresh_token"]}
        answers = [await ask(replica.listen, "POST", "/auth/refresh", body=body) for replica in (first, second)]
        assert answers[0].status == 200 and answers[1].status in (200, 401), answers
        successors = {answer.json()["refresh_token"] for answer in answers if answer.status == 200}
        assert len(successors) == 1, f"{first.name} and {second.name} gave two successors"
        if answers[1].status == 401:
            ended.append(f"{first.name} then {second.name}")
            behind = offsets[first.name] - offsets[second.name]
            assert behind > 8, f"a refresh that was repeated at once at {second.name}, {behind}s behind, has ended its session"
    world.said(f"{tries} refreshes repeated at another replica: 0 with two successors, {len(ended)} ended their session"
               + (f" ({', '.join(ended)})" if ended else ""))


async def theirs_revoked_everywhere(world, offsets, issuer):
    """Tokens of an issuer whose clock is right, ended by its subject: by a moment, since those carry no version of ours."""
    late, count = [], 0
    for writer in world.replicas:
        for body in ({"sub": f"sub-{writer.name}"}, {"before": "now"}):
            token = await asyncio.to_thread(issuer.token, f"sub-{writer.name}")
            before = [(await ask(replica.listen, "GET", "/theirs", token)).status for replica in world.replicas]
            answer = await operate(writer, "POST", "/admin/v1/revocations", {**body, "issuer": THEIRS})
            assert answer.status == 201, answer
            count += 1
            for replica, status in zip(world.replicas, before):
                again = await ask(replica.listen, "GET", "/theirs", token)
                if again.status != 401:
                    late.append(f"{body} at {writer.name} ({offsets[writer.name]:+d}s): admitted at {replica.name} "
                                f"({offsets[replica.name]:+d}s): {again.status}, before it {status}")
    assert not late, f"{len(late)} breaches:\n" + "\n".join(late[:20])
    world.said(f"{count} revocations of another issuer's tokens: 0 admitted afterwards")
