"""Palisade and passlib read each other's hashes, and Palisade reads those of Django, argon2-cffi, Keycloak, ASP.NET Identity
and Firebase. Run by `run` in an environment that has passlib, Django and argon2-cffi; the argument is the program.

Keycloak, ASP.NET Identity and Firebase are no Python. Their formats are made here with hashlib, as they are documented:
Keycloak's `CredentialRepresentation` and `PasswordCredentialModel`, ASP.NET Core's `PasswordHasher.cs`, and the README of
github.com/firebase/scrypt."""

import base64
import hashlib
import json
import os
import subprocess
import sys

import argon2
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from passlib.hash import bcrypt, bcrypt_sha256, django_bcrypt_sha256, pbkdf2_sha1, pbkdf2_sha256, pbkdf2_sha512, scrypt

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


def b64(value):
    return base64.b64encode(value).decode()


def django_hashers():
    """Django's hashers with the costs that they have today."""
    from django.conf import settings
    settings.configure()
    from django.contrib.auth import hashers
    for hasher in [
        hashers.PBKDF2PasswordHasher, hashers.PBKDF2SHA1PasswordHasher, hashers.Argon2PasswordHasher, hashers.ScryptPasswordHasher,
        hashers.BCryptSHA256PasswordHasher, hashers.BCryptPasswordHasher,
    ]:
        made = hasher()
        yield "Django " + made.algorithm, lambda password, made=made: made.encode(password, made.salt())


def keycloak(algorithm, name, iterations, length=64):
    """A credential of a realm's export."""
    def make(password):
        salt = os.urandom(16)
        value = hashlib.pbkdf2_hmac(name, password.encode(), salt, iterations, length)
        secret = {"value": b64(value), "salt": b64(salt), "additionalParameters": {}}
        credential = {"hashIterations": iterations, "algorithm": algorithm, "additionalParameters": {}}
        return json.dumps({"type": "password", "secretData": json.dumps(secret), "credentialData": json.dumps(credential)})
    return make


def keycloak_argon2(password):
    salt = os.urandom(16)
    value = argon2.low_level.hash_secret_raw(password.encode(), salt, 5, 7168, 1, 32, argon2.Type.ID)
    extra = {"hashLength": ["32"], "memory": ["7168"], "type": ["id"], "version": ["1.3"], "parallelism": ["1"]}
    secret = {"value": b64(value), "salt": b64(salt), "additionalParameters": {}}
    credential = {"hashIterations": 5, "algorithm": "argon2", "additionalParameters": extra}
    return json.dumps({"secretData": secret, "credentialData": credential})


def aspnet_2(password):
    salt = os.urandom(16)
    return b64(b"\0" + salt + hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 1000, 32))


def aspnet_3(number, name, iterations):
    def make(password):
        salt = os.urandom(16)
        head = b"\1" + b"".join(value.to_bytes(4, "big") for value in (number, iterations, len(salt)))
        return b64(head + salt + hashlib.pbkdf2_hmac(name, password.encode(), salt, iterations, 32))
    return make


def firebase(password):
    signer, salt, separator = os.urandom(64), os.urandom(10), b"\x07"
    key = hashlib.scrypt(password.encode(), salt=salt + separator, n=2**14, r=8, p=1, maxmem=2**26, dklen=64)[:32]
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    parts = {"hash": b64(cipher.update(signer)), "salt": b64(salt), "signer_key": b64(signer), "salt_separator": b64(separator)}
    return json.dumps({"algorithm": "firebase-scrypt", "rounds": 8, "mem_cost": 14, **parts})


IMPORTED = {
    "argon2-cffi": argon2.PasswordHasher().hash,
    "argon2-cffi, argon2i": argon2.PasswordHasher(type=argon2.Type.I).hash,
    "argon2-cffi, RFC 9106 with little memory": argon2.PasswordHasher.from_parameters(argon2.profiles.RFC_9106_LOW_MEMORY).hash,
    "passlib pbkdf2-sha1": pbkdf2_sha1.hash,
    "passlib pbkdf2-sha256": pbkdf2_sha256.hash,
    "passlib pbkdf2-sha512": pbkdf2_sha512.hash,
    "passlib scrypt": scrypt.hash,
    "passlib django_bcrypt_sha256": django_bcrypt_sha256.using(rounds=COST).hash,
    "Spring": lambda password: "{bcrypt}" + bcrypt.using(rounds=10, ident="2a").hash(password),
    "Keycloak pbkdf2-sha512": keycloak("pbkdf2-sha512", "sha512", 210_000),
    "Keycloak pbkdf2-sha256": keycloak("pbkdf2-sha256", "sha256", 600_000),
    "Keycloak pbkdf2-sha256 of before": keycloak("pbkdf2-sha256", "sha256", 27_500),
    "Keycloak pbkdf2": keycloak("pbkdf2", "sha1", 20_000, 20),
    "Keycloak argon2": keycloak_argon2,
    "ASP.NET Identity 2": aspnet_2,
    "ASP.NET Identity 3 of before": aspnet_3(1, "sha256", 10_000),
    "ASP.NET Identity 3": aspnet_3(2, "sha512", 100_000),
    "Firebase": firebase,
}


def ours_reads_imported():
    """Hashes of other algorithms, at the costs that their makers choose today: each is right once and then made anew."""
    makers = {**IMPORTED, **dict(django_hashers())}
    for name, make in makers.items():
        for password in ["U*U", "t\u00e1\u0411\u2113\u0259 \U0001f511", "0123456789" * 7]:
            kept = make(password)
            said = palisade("verify", kept, password=password)
            assert said == (0, "right; the next login writes it anew", ""), f"{name}: {kept}: {said}"
            said = palisade("verify", kept, password="x" + password[1:])
            assert said == (1, "wrong", ""), f"{name}, another password: {kept}: {said}"
    return len(makers)


theirs, ours = ours_reads_theirs(), theirs_reads_ours()
both_refuse()
imported = ours_reads_imported()
print(f"{theirs} hashes of passlib and {ours} of ours were read by the other, and those of {imported} other makers by us")
