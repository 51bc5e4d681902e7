"""Palisade and passlib read each other's hashes. Run by `run` in an environment that has passlib; the
argument is the program."""

import subprocess
import sys

from passlib.hash import bcrypt, bcrypt_sha256

PALISADE = sys.argv[1]
COST = 4  # the form is what is looked at, not the work

PASSWORDS = {
    "short": "U*U",
    "one character": "a",
    "with spaces around": "  a b  ",
    "not ASCII": "t\u00e1\u0411\u2113\u0259 \U0001f511",
    "71 bytes": "abc123" * 11 + "abcde",
    "72 bytes": "abc123" * 12,
    "73 bytes": "abc123" * 12 + "a",
    "200 bytes": "0123456789" * 20,
    "72 bytes in the midst of a character": "a" * 71 + "\u00e9" * 10,
    "1024 bytes": "abcdefgh" * 128,
}

MAKERS = {
    "2a": bcrypt.using(rounds=COST, ident="2a"),
    "2b": bcrypt.using(rounds=COST, ident="2b"),
    "2y": bcrypt.using(rounds=COST, ident="2y"),
    "bcrypt_sha256 v1": bcrypt_sha256.using(rounds=COST, version=1),
    "bcrypt_sha256 v1 of 2a": bcrypt_sha256.using(rounds=COST, version=1, ident="2a"),
    "bcrypt_sha256 v2": bcrypt_sha256.using(rounds=COST, version=2),
}


def palisade(*arguments, password):
    done = subprocess.run(
        [PALISADE, "password", *arguments, "--cost", str(COST)], input=password.encode() + b"\n", capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode().strip(), done.stderr.decode().strip()


def as_new(maker, password):
    """Whether Palisade would write the same form for this password."""
    return maker == ("2b" if len(password.encode()) <= 72 else "bcrypt_sha256 v2")


def ours_reads_theirs():
    count = 0
    for maker, handler in MAKERS.items():
        for name, password in PASSWORDS.items():
            kept = handler.hash(password)
            said = palisade("verify", kept, password=password)
            expected = "right" if as_new(maker, password) else "right; the next login writes it anew"
            assert said == (0, expected, ""), f"{maker}, {name}: {kept}: {said}"
            # What is before the 72nd byte always counts.
            said = palisade("verify", kept, password="x" + password[1:] + "x")
            assert said == (1, "wrong", ""), f"{maker}, {name}, another password: {kept}: {said}"
            # What is behind it counts as passlib has it.
            longer = password + "x"
            said = palisade("verify", kept, password=longer)
            assert (said[0] == 0) == handler.verify(longer, kept), f"{maker}, {name}, a longer one: {kept}: {said}"
            count += 1
    return count


def theirs_reads_ours():
    count = 0
    for name, password in PASSWORDS.items():
        code, kept, error = palisade("hash", password=password)
        assert code == 0, f"{name}: {error}"
        handler = bcrypt if len(password.encode()) <= 72 else bcrypt_sha256
        assert handler.identify(kept), f"{name}: {kept}"
        assert handler.verify(password, kept), f"{name}: {kept}"
        assert not handler.verify("x" + password[1:], kept), f"{name}, another password: {kept}"
        assert not handler.using(rounds=COST).needs_update(kept), f"{name}: {kept}"
        count += 1
    return count


def both_refuse():
    """What passlib takes for no hash is none for us."""
    good = MAKERS["bcrypt_sha256 v2"].hash("password")
    for odd in ["", "*", good[:-1], good + "x", good.replace("r=4", "r=04"), good.replace("v=2", "v=3"), good.replace("2b", "2a")]:
        try:
            bcrypt_sha256.verify("password", odd)
            raise AssertionError(f"passlib takes {odd!r}")
        except (ValueError, TypeError):
            pass
        code, _, error = palisade("verify", odd, password="password")
        assert code == 2 and "no hash" in error, f"{odd!r}: {code} {error}"


theirs, ours = ours_reads_theirs(), theirs_reads_ours()
both_refuse()
print(f"{theirs} hashes of passlib and {ours} of ours were read by the other")
