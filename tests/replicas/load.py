"""People at work: they sign in, ask, refresh, and are shut out again, at every replica; and all of it is noted."""

import asyncio
import base64
import json
import random

from asks import ask, operate
from checker import Refresh, Request, Revocation, Stream, Write
from machines import now

PASSWORD = "Correct horse 42 staple"
# When the tokens of a revocation are tried again, in seconds from its acknowledgement.
AFTER = (0, 0.02, 0.1, 0.3, 0.7, 1.5, 3, 6)
# How many requests may wait for one replica: one that is paused answers none.
UNDER_WAY = 200


def claims(token):
    middle = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))


class Load:
    def __init__(self, replicas, upstream, history, seed, people, keep=60):
        self.replicas, self.upstream, self.history = replicas, upstream, history
        self.random = random.Random(seed)
        self.people, self.keep = people, keep
        self.ends = False
        self.tasks = set()
        self.room = {replica.name: asyncio.Semaphore(UNDER_WAY) for replica in replicas}
        self.counts = {}
        # Sessions whose refresh went unanswered once.
        self.doubtful = set()

    def count(self, what, status):
        key = what, "lost" if status == 0 else str(status)
        self.counts[key] = self.counts.get(key, 0) + 1

    def any(self):
        return self.random.choice(self.replicas)

    def spawn(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def at(self, replica, what, work):
        async with self.room[replica.name]:
            answer = await work
        self.count(what, answer.status)
        return answer

    async def until_acknowledged(self, what, work, statuses, patience=120):
        """Asks any replica until one acknowledges; the answer of that one."""
        end = now() + patience
        while now() < end:
            answer = await work(self.any())
            self.count(what, answer.status)
            if answer.status in statuses:
                return answer
            if 400 <= answer.status < 500 and answer.status != 409:
                raise AssertionError(f"{what} was refused: {answer.status} {answer.body[:300]}")
            await asyncio.sleep(0.1 + self.random.random() / 5)
        raise AssertionError(f"{what} was not acknowledged within {patience}s; last: {answer}")

    async def make_person(self, number):
        email = f"person-{number}@example.com"

        async def make(replica):
            answer = await operate(replica, "POST", "/admin/v1/users", {
                "email": email, "password": PASSWORD, "name": "0", "email_verified": True})
            if answer.status == 409:
                # An earlier try whose answer was lost has made it.
                answer = await operate(replica, "GET", f"/admin/v1/users/{email}")
            return answer

        answer = await self.until_acknowledged("making an account", make, (200, 201))
        self.history.writes.append(Write("account", email, answer.json()["id"], answer.done))
        return email, answer.json()["id"]

    async def run(self):
        """Works until `ends`; then everything that is under way comes to its end."""
        people = await asyncio.gather(*(self.make_person(number) for number in range(self.people)))
        # Of every other one no subject is revoked, so that sessions of theirs live to the end.
        workers = [asyncio.create_task(self.person(*person, number % 2 == 0)) for number, person in enumerate(people)]
        try:
            await asyncio.gather(*workers)
            while self.tasks:
                await asyncio.gather(*list(self.tasks))
        finally:
            for worker in [*workers, *self.tasks]:
                worker.cancel()

    async def person(self, email, subject, keeps):
        while not self.ends:
            await self.session(email, subject, keeps)

    def note_tokens(self, answer, subject):
        granted = answer.json()
        token = granted["access_token"]
        assert claims(token)["sub"] == subject, "a token of another subject"
        self.history.token(token, subject, claims(token)["sid"], answer.done)
        return token, granted["refresh_token"]

    async def session(self, email, subject, keeps):
        async def login(replica):
            return await ask(replica.listen, "POST", "/auth/login", body={"email": email, "password": PASSWORD})

        answer = await self.until_acknowledged("login", login, (200,))
        token, refresh = self.note_tokens(answer, subject)
        session, tokens = claims(token)["sid"], [token]
        for _ in range(self.random.randint(2, 8)):
            if self.ends:
                break
            choice = self.random.random()
            if choice < 0.35:
                refresh = await self.exchange(session, subject, refresh, tokens)
                if refresh is None:
                    return
            elif choice < 0.42:
                self.spawn(self.stream(tokens[-1]))
            elif choice < 0.5:
                await self.rename(email, tokens[-1])
            elif choice < 0.55:
                self.spawn(self.minted(subject))
            else:
                await self.request(self.any(), self.random.choice(tokens))
            await asyncio.sleep(self.random.random() * 0.25)
        if keeps and self.random.random() < 0.2 and len(self.history.alive) < self.keep and session not in self.doubtful:
            self.history.alive[session] = refresh
            return
        await self.shut_out(subject, session, tokens, refresh, keeps)

    async def request(self, replica, token):
        answer = await self.at(replica, "request", ask(replica.listen, "GET", "/", token))
        self.note_request(replica, token, answer)
        return answer

    def note_request(self, replica, token, answer):
        admitted = answer.status == 200 or answer.check in self.upstream.arrivals
        self.history.requests.append(Request(token, replica.name, answer.sent, answer.done, answer.status, admitted))

    async def exchange(self, session, subject, presented, tokens):
        """Exchanges a refresh token, at times at two replicas at once, until a successor is there. None where the session
        has ended instead, as it may after an answer was lost: what a paused replica carries out much later is a replay."""
        successor, was_lost = None, False

        async def once(replica):
            nonlocal successor, was_lost
            answer = await ask(replica.listen, "POST", "/auth/refresh", body={"refresh_token": presented})
            brought, was_lost = None, was_lost or answer.status == 0
            if answer.status == 200:
                token, brought = self.note_tokens(answer, subject)
                tokens.append(token)
                successor = successor or brought
            self.history.refreshes.append(
                Refresh(presented, session, replica.name, answer.sent, answer.done, answer.status, brought))
            return answer

        if self.random.random() < 0.4:
            for answer in await asyncio.gather(once(self.any()), once(self.any())):
                self.count("refresh", answer.status)
        if successor is None:
            allowed = (200, 401) if was_lost or session in self.doubtful else (200,)
            await self.until_acknowledged("refresh", once, allowed)
        if was_lost:
            self.doubtful.add(session)
        return successor

    async def rename(self, email, token):
        # Letters alone: a number might be one to call, which is no name.
        name = "".join(self.random.choices("abcdefghijklmnop", k=12))

        async def once(replica):
            answer = await ask(replica.listen, "PATCH", "/auth/me", token, {"name": name})
            if answer.status != 200:
                self.history.maybe[("name", email)].add(name)
            return answer

        answer = await self.until_acknowledged("renaming", once, (200,))
        self.history.writes.append(Write("name", email, name, answer.done))

    async def minted(self, subject):
        """A token of the operator's, revoked by its own."""
        async def mint(replica):
            return await operate(replica, "POST", "/admin/v1/tokens", {"sub": f"service-{subject}"})

        answer = await self.until_acknowledged("minting", mint, (200, 201))
        token = answer.json()["access_token"]
        self.history.token(token, f"service-{subject}", None, answer.done)
        await asyncio.gather(*(self.request(replica, token) for replica in self.replicas))
        await self.revoke("token", token, {"token": token})
        self.spawn(self.try_again([token]))

    async def stream(self, token):
        replica, opened, last = self.any(), now(), 0.0
        try:
            async with asyncio.timeout(25):
                reader, writer = await asyncio.open_connection(*replica.listen)
                try:
                    writer.write(
                        f"GET /stream HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
                    status = await reader.readline()
                    self.count("stream", int(status.split()[1]) if status else 0)
                    if b" 200 " not in status:
                        return
                    while line := await reader.readline():
                        if b"." in line and line.strip().replace(b".", b"").isdigit():
                            last = float(line)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.LimitOverrunError):
            pass  # cut: what came before counts
        finally:
            if last:
                self.history.streams.append(Stream(token, replica.name, opened, last, now()))

    async def revoke(self, kind, target, body, ways=()):
        """Revokes at any replica until it is acknowledged."""
        while True:
            replica = self.any()
            way = self.random.choice([("POST", "/admin/v1/revocations", body), *ways])
            answer = await self.at(replica, "revocation", operate(replica, way[0], way[1], way[2], timeout=40))
            done = answer.status in (200, 201, 204)
            told = answer.json() if done and answer.body else {}
            self.history.revocations.append(
                Revocation(kind, target, answer.sent, answer.done if done else None, replica.name, told))
            if done:
                return
            # A session that an earlier try has ended, whose answer was lost, is not there any more.
            if answer.status in (404, 409) and way[0] == "DELETE":
                ways = ()
                continue
            assert answer.status in (0, 503, 409), f"a revocation was refused: {answer}"
            await asyncio.sleep(0.1)

    async def shut_out(self, subject, session, tokens, refresh, keeps):
        kind = self.random.choice(("token", "session") if keeps else ("token", "session", "subject"))
        if kind == "token":
            tokens = [self.random.choice(tokens)]
            await self.revoke("token", tokens[0], {"token": tokens[0]})
            refresh = None
        elif kind == "session":
            path = f"/admin/v1/users/{subject}/sessions/{session}"
            await self.revoke("session", session, {"sid": session}, ways=[("DELETE", path, None)])
        else:
            await self.revoke("subject", subject, {"sub": subject})
        self.spawn(self.try_again(tokens, refresh, session))

    async def try_again(self, tokens, refresh=None, session=None):
        begun = now()
        for after in AFTER:
            await asyncio.sleep(max(0, begun + after - now()))
            for replica in self.replicas:
                self.spawn(self.request(replica, self.random.choice(tokens)))
        if refresh:
            replica = self.any()
            answer = await self.at(replica, "dead refresh", ask(replica.listen, "POST", "/auth/refresh", body={"refresh_token": refresh}))
            brought = answer.json()["refresh_token"] if answer.status == 200 else None
            self.history.refreshes.append(
                Refresh(refresh, session, replica.name, answer.sent, answer.done, answer.status, brought))

    async def read_back(self):
        """What is there now of all that was acknowledged, asked at every replica in turn."""
        found = {}
        for (what, email) in {(write.what, write.name) for write in self.history.writes}:
            for replica in self.replicas:
                answer = await operate(replica, "GET", f"/admin/v1/users/{email}")
                value = answer.json().get("id" if what == "account" else "name") if answer.status == 200 else answer.status
                # All replicas have to say the same, so one that differs stays.
                if found.get((what, email), value) != value:
                    value = f"{found[what, email]!r} at one and {value!r} at another"
                found[what, email] = value
        return found

    async def refused_at_the_end(self):
        """Every revoked token once more, each at one replica in turn; how many there were."""
        dead = [token for token, since in self.history.dead_since().items() if since != float("inf")]
        slots = asyncio.Semaphore(20)

        async def once(number, token):
            async with slots:
                answer = await self.request(self.replicas[number % len(self.replicas)], token)
                return [] if answer.status == 401 else [f"a revoked token was answered {answer.status} at the end: {answer.why}"]

        found = await asyncio.gather(*(once(*numbered) for numbered in enumerate(dead)))
        return len(dead), [breach for breaches in found for breach in breaches]

    async def alive_at_the_end(self):
        """Every session that nothing has ended goes on with the refresh token that was acknowledged last."""
        gone = []
        for number, (session, refresh) in enumerate(self.history.alive.items()):
            replica = self.replicas[number % len(self.replicas)]
            answer = await ask(replica.listen, "POST", "/auth/refresh", body={"refresh_token": refresh})
            if answer.status != 200:
                gone.append(f"session {session} was acknowledged and cannot be refreshed: {answer.status} {answer.body[:200]}")
        return len(self.history.alive), gone
