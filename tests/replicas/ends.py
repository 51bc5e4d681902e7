"""How tokens and sessions end: by an operator, by their owner, by a new password, and by a refresh token that comes again."""

import asyncio

from asks import HOST, PASSWORD, ask, operate
from checker import Refresh, Revocation
from machines import now

# When the tokens of a revocation are tried again, in seconds from its acknowledgement.
AFTER = (0, 0.02, 0.1, 0.3, 0.7, 1.5, 3, 6)
# How long one may take: a lease of each replica that does not answer.
PATIENCE = 40
# What keeps the person from signing in, too.
LOCKS_OUT = ("disabling", "password reset")


def by_operator(name, method, path, body=None):
    return name, lambda replica: operate(replica, method, path, body, timeout=PATIENCE)


def by_person(name, method, path, token=None, body=None):
    return name, lambda replica: ask(replica.listen, method, path, token, body, timeout=PATIENCE, host=HOST)


class Ends:
    """A part of `Load`."""

    @staticmethod
    def revocation(body):
        return by_operator("revocation", "POST", "/admin/v1/revocations", body)

    async def revoke(self, kind, target, ways):
        """Revokes at any replica, in any of these ways, until it is acknowledged. Returns which were tried.
        Where no way is left, it has ended by a request that was not answered."""
        ways, tried = list(ways), set()
        while ways:
            replica = self.any()
            name, way = self.random.choice(ways)
            answer = await self.at(replica, name, way(replica))
            done = answer.status in (200, 201, 202, 204)
            told = answer.json() if done and answer.body else {}
            self.history.revocations.append(
                Revocation(kind, target, answer.sent, answer.done if done else None, replica.name, told, name))
            tried.add(name)
            if done:
                return tried
            # A credential or a session that an earlier try has ended, whose answer was lost, is not there any more.
            if answer.status in (401, 404, 409) and name != "revocation":
                ways.remove((name, way))
                continue
            assert answer.status in (0, 503, 409), f"{name} was refused: {answer}"
            await asyncio.sleep(0.1)
        return tried

    def ask_everywhere(self, tokens):
        """Sends a request with one of these to each replica, and does not wait: at one that is stopped it waits in a socket,
        and is decided once what follows was acknowledged."""
        for replica in self.replicas:
            self.spawn(self.request(replica, self.random.choice(tokens)))

    async def shut_out(self, email, subject, session, tokens, refresh, keeps, cookie):
        kind = self.random.choice(("token", "session") if keeps else ("token", "session", "subject"))
        account, token = f"/admin/v1/users/{subject}", tokens[-1]
        if kind == "token":
            tokens = [self.random.choice(tokens)]
            self.ask_everywhere(tokens)
            await self.revoke("token", tokens[0], [self.revocation({"token": tokens[0]})])
            refresh = None
        elif kind == "session":
            self.ask_everywhere(tokens)
            await self.revoke("session", session, [
                self.revocation({"sid": session}), by_operator("ending a session", "DELETE", f"{account}/sessions/{session}"),
                by_person("logout", "POST", "/auth/logout", token), by_person("ending one's session", "DELETE", f"/auth/sessions/{session}", token),
                by_person("logout by refresh token", "POST", "/auth/logout", None, {"refresh_token": refresh})])
        else:
            tokens = [*tokens, cookie] if cookie else tokens
            self.ask_everywhere(tokens)
            tried = await self.revoke("subject", subject, [
                self.revocation({"sub": subject}), by_operator("ending sessions", "DELETE", f"{account}/sessions"),
                by_person("ending one's sessions", "DELETE", "/auth/sessions", token),
                by_operator("disabling", "PATCH", account, {"active": False}),
                by_operator("password reset", "POST", f"{account}/reset-password")])
            if tried.intersection(LOCKS_OUT):
                self.unsure.add(email)
                await self.let_in_again(email, subject)
        self.spawn(self.try_again(tokens, refresh, session))

    async def let_in_again(self, email, subject):
        """Undoes what keeps a person from signing in. What went unanswered may come later, and then this is done again."""
        async def enable(replica):
            return await operate(replica, "PATCH", f"/admin/v1/users/{subject}", {"active": True})

        async def reset(replica):
            return await operate(replica, "POST", f"/admin/v1/users/{subject}/reset-password")

        async def confirm(replica):
            return await ask(replica.listen, "POST", "/auth/password-resets/confirm", None,
                             {"token": link.rpartition("#token=")[2], "new_password": PASSWORD}, host=HOST)

        await self.until_acknowledged("enabling", enable, (200,))
        sent = now()
        # It ends every session; none lives on an account that is shut out.
        answer = await self.until_acknowledged("password reset", reset, (202,))
        self.history.revocations.append(Revocation("subject", subject, sent, None, "", {}, "password reset"))
        link = answer.json()["link"]
        await self.until_acknowledged("new password", confirm, (204, 400))

    async def sign_out(self, cookie):
        self.ask_everywhere([cookie])
        await self.revoke("token", cookie, [by_person("cookie logout", "POST", "/auth/logout", cookie)])
        self.spawn(self.try_again([cookie]))

    async def replay(self, session, chain, tokens):
        """At times, and where it is known what was exchanged: presents a refresh token whose successor was used. That ends the
        session, so it is a revocation as well. Returns whether that was acknowledged."""
        if len(chain) < 3 or session in self.doubtful or self.random.random() < 0.5:
            return False
        replica, presented = self.any(), chain[self.random.randrange(len(chain) - 2)]
        answer = await self.at(replica, "replay", ask(
            replica.listen, "POST", "/auth/refresh", body={"refresh_token": presented}, timeout=PATIENCE))
        brought = answer.json()["refresh_token"] if answer.status == 200 else None
        self.history.refreshes.append(
            Refresh(presented, session, replica.name, answer.sent, answer.done, answer.status, brought))
        ended = answer.status == 401
        self.history.revocations.append(
            Revocation("session", session, answer.sent, answer.done if ended else None, replica.name, {}, "replay"))
        if ended:
            self.spawn(self.try_again(tokens, chain[-1], session))
        else:
            self.doubtful.add(session)
        return ended

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
