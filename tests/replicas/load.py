"""People at work: they sign in, ask, refresh, and are shut out again in every way there is, at every replica; and all of it
is noted.
"""

import asyncio
import base64
import json
import random

from asks import COOKIE, HOST, PASSWORD, KeptConnections, ask, operate
from checker import Refresh, Request, Write
from ends import Ends
from machines import now
from wires import HEARS, wire

# How many requests may wait for one replica: one that is paused answers none.
UNDER_WAY = 200


def claims(token):
    middle = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))


class Load(Ends):
    def __init__(self, replicas, upstream, history, seed, people, keep=60):
        self.replicas, self.upstream, self.history = replicas, upstream, history
        self.random = random.Random(seed)
        self.people, self.keep = people, keep
        self.ends = False
        self.tasks = set()
        self.room = {replica.name: asyncio.Semaphore(UNDER_WAY) for replica in replicas}
        self.kept = {replica.name: KeptConnections(replica.listen) for replica in replicas}
        self.counts = {}
        history.arrivals = upstream.arrivals
        # Sessions whose refresh went unanswered once.
        self.doubtful = history.doubtful
        # Accounts of which a change that keeps their people from signing in went unanswered.
        self.unsure = set()

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
            for kept in self.kept.values():
                kept.close()

    async def person(self, email, subject, keeps):
        while not self.ends:
            await self.session(email, subject, keeps)

    def note_tokens(self, answer, subject):
        granted = answer.json()
        token = granted["access_token"]
        assert claims(token)["sub"] == subject, "a token of another subject"
        self.history.token(token, subject, claims(token)["sid"], answer.done)
        return token, granted["refresh_token"]

    async def signed_in(self, what, email, subject, status, token=None, **more):
        """The answer to a sign-in, at any replica until there is one."""
        async def login(replica):
            body = {"email": email, "password": PASSWORD, **more}
            return await ask(replica.listen, "POST", "/auth/login", token, body, host=HOST)

        while True:
            allowed = (status, 401, 403) if email in self.unsure else (status,)
            answer = await self.until_acknowledged(what, login, allowed)
            if answer.status == status:
                return answer
            await self.let_in_again(email, subject)

    async def session(self, email, subject, keeps):
        answer = await self.signed_in("login", email, subject, 200)
        token, refresh = self.note_tokens(answer, subject)
        session, tokens, chain = claims(token)["sid"], [token], [refresh]
        cookie = await self.browser(email, subject) if self.random.random() < 0.3 else None
        for _ in range(self.random.randint(2, 8)):
            if self.ends:
                break
            choice = self.random.random()
            if choice < 0.35:
                refresh = await self.exchange(session, subject, refresh, tokens)
                if refresh is None:
                    break
                chain.append(refresh)
            elif choice < 0.42:
                self.spawn(wire(self, self.random.choice([tokens[-1], cookie or tokens[-1]]), self.random.choice(list(HEARS))))
            elif choice < 0.5:
                await self.rename(email, tokens[-1])
            elif choice < 0.55:
                self.spawn(self.minted(subject))
            else:
                await self.request(self.any(), self.random.choice([*tokens, cookie or tokens[-1]]))
            await asyncio.sleep(self.random.random() * 0.25)
        if refresh is not None:
            if keeps and self.random.random() < 0.2 and len(self.history.alive) < self.keep and session not in self.doubtful:
                self.history.alive[session] = refresh
            elif not await self.replay(session, chain, tokens):
                await self.shut_out(email, subject, session, tokens, refresh, keeps, cookie)
        if cookie:
            await self.sign_out(cookie)

    async def browser(self, email, subject):
        """A session in a cookie."""
        answer = await self.signed_in("cookie login", email, subject, 204, COOKIE, session="cookie")
        cookie = answer.fields[b"set-cookie"].split(b";")[0].decode()
        assert cookie.startswith(COOKIE), answer
        self.history.token(cookie, subject, None, answer.done)
        return cookie

    async def request(self, replica, token):
        if self.random.random() < 0.5:
            kind, work = "request", ask(replica.listen, "GET", "/", token, host=HOST)
        else:
            kind, work = "request on a kept connection", self.kept[replica.name].ask("GET", "/", token, host=HOST)
        answer = await self.at(replica, "cookie request" if token.startswith(COOKIE) else "request", work)
        self.history.requests.append(Request(token, replica.name, answer.sent, answer.done, answer.status, answer.check, kind))
        return answer

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
        await self.revoke("token", token, [self.revocation({"token": token})])
        self.spawn(self.try_again([token]))

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
