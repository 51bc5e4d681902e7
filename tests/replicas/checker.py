"""What happened, in one time base, and whether the promises of replicas were kept.

The rules, for every moment by the one clock of `machines.now`:

- A request or a refresh that was sent after a revocation of its token was acknowledged is admitted nowhere: neither is it
  answered as admitted, nor does it reach the app.
- A stream that a token opened carries nothing that the app sent later than `STREAM_GRACE` after that, by the time that its
  replica was not stopped: one that has confirmed a revocation ends what is under way as soon as it runs.
- What was acknowledged is there at the end, after every replica was started anew.
- A refresh token has one successor.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

STREAM_GRACE = 2.0  # seconds; what is under way is ended within about one, as without replicas


@dataclass
class Token:
    """An access token, of one session of one subject, or of none."""

    text: str
    subject: str
    session: str | None
    got: float  # when it was there


@dataclass
class Revocation:
    """`kind` is "token", "session" or "subject"; `acknowledged` is None where no answer or a refusal came."""

    kind: str
    target: str
    sent: float
    acknowledged: float | None
    replica: str
    # What the answer says of the replicas.
    told: dict = field(default_factory=dict)


@dataclass
class Request:
    """`status` is 0 without an answer. `admitted` is whether the gateway let it pass, by the answer or by the app."""

    token: str
    replica: str
    sent: float
    done: float
    status: int
    admitted: bool


@dataclass
class Refresh:
    """`successor` is None unless it was answered with one."""

    presented: str
    session: str
    replica: str
    sent: float
    done: float
    status: int
    successor: str | None


@dataclass
class Stream:
    """`last` is when the app sent the last of what came through."""

    token: str
    replica: str
    opened: float
    last: float
    done: float


@dataclass
class Write:
    """Something that was acknowledged and has to be there at the end."""

    what: str
    name: str
    value: object
    acknowledged: float


class History:
    def __init__(self):
        self.tokens = {}
        self.revocations, self.requests, self.refreshes, self.streams, self.writes = [], [], [], [], []
        # Of sessions that must live at the end: the refresh token that was acknowledged last.
        self.alive = {}
        # What was written without an acknowledgement may be carried out at any later time.
        self.maybe = defaultdict(set)
        # Of each replica: from when to when its process was stopped.
        self.stopped = defaultdict(list)

    def token(self, text, subject, session, got):
        self.tokens[text] = Token(text, subject, session, got)

    def ran(self, replica, since, until):
        """For how long a replica was not stopped between two moments."""
        stopped = sum(max(0, min(end, until) - max(begin, since)) for begin, end in self.stopped[replica])
        return until - since - stopped

    def dead_since(self):
        """When each token was acknowledged as revoked: infinity where it was not."""
        by_target = defaultdict(list)
        for revocation in self.revocations:
            if revocation.acknowledged is not None:
                by_target[revocation.kind, revocation.target].append(revocation)
        dead = {}
        for token in self.tokens.values():
            covering = list(by_target["token", token.text])
            # Those that were signed after it was sent are another matter, so only what was there before counts.
            later = by_target["session", token.session] + by_target["subject", token.subject]
            covering += [revocation for revocation in later if token.got < revocation.sent]
            dead[token.text] = min((revocation.acknowledged for revocation in covering), default=math.inf)
        return dead

    def sessions_dead_since(self):
        begun = {}
        for token in self.tokens.values():
            if token.session:
                begun[token.session] = min(token.got, begun.get(token.session, math.inf))
        subjects = {token.session: token.subject for token in self.tokens.values() if token.session}
        dead = defaultdict(lambda: math.inf)
        for revocation in self.revocations:
            if revocation.acknowledged is None or revocation.kind == "token":
                continue
            for session, subject in subjects.items():
                covers = revocation.target == (session if revocation.kind == "session" else subject)
                if covers and begun[session] < revocation.sent:
                    dead[session] = min(dead[session], revocation.acknowledged)
        return dead


def admitted_after(history):
    """Requests, refreshes and streams that got past an acknowledged revocation."""
    dead, found = history.dead_since(), []
    for request in history.requests:
        since = dead.get(request.token, math.inf)
        if request.admitted and request.sent > since:
            found.append(f"a request at {request.replica} was admitted {request.sent - since:.3f}s after the revocation of its token was acknowledged")
    sessions = history.sessions_dead_since()
    for refresh in history.refreshes:
        since = sessions[refresh.session]
        if refresh.successor and refresh.sent > since:
            found.append(f"a refresh at {refresh.replica} was granted {refresh.sent - since:.3f}s after the end of its session was acknowledged")
    for stream in history.streams:
        since = dead.get(stream.token, math.inf)
        if stream.last > since and history.ran(stream.replica, since, stream.last) > STREAM_GRACE:
            found.append(f"a stream at {stream.replica} carried what was sent {stream.last - since:.3f}s after the revocation of its token was acknowledged")
    return found


def used_twice(history):
    """Refresh tokens with two successors."""
    successors = defaultdict(set)
    for refresh in history.refreshes:
        if refresh.successor:
            successors[refresh.presented].add(refresh.successor)
    return [f"a refresh token has {len(found)} successors" for found in successors.values() if len(found) > 1]


def lost(history, found):
    """Acknowledged writes that are not there: `found` maps the name of each to what was read at the end."""
    latest = {}
    for write in history.writes:
        before = latest.get((write.what, write.name))
        if before is None or before.acknowledged <= write.acknowledged:
            latest[write.what, write.name] = write
    missing = []
    for (what, name), write in latest.items():
        read = found.get((what, name))
        if read != write.value and read not in history.maybe[what, name]:
            missing.append(f"{what} {name} was acknowledged as {write.value!r} and reads {read!r}")
    return missing


def prove():
    """Each rule finds its breach, and nothing in what keeps it."""
    def kept():
        history = History()
        history.token("t1", "ann", "s1", got=1.0)
        history.token("t2", "ann", "s2", got=1.0)
        history.token("t3", "ann", "s2", got=9.5)
        history.revocations = [Revocation("token", "t1", 2.0, 3.0, "a"), Revocation("session", "s2", 2.0, None, "a"),
                               Revocation("subject", "ann", 9.0, 10.0, "b")]
        history.requests = [
            Request("t1", "a", 2.9, 3.5, 200, True),  # sent before the acknowledgement
            Request("t1", "a", 3.1, 3.5, 401, False), Request("t1", "b", 3.1, 9.0, 0, False),
            Request("t2", "b", 9.9, 10.5, 200, True),  # its session's end was never acknowledged
            Request("t3", "b", 11.0, 11.1, 200, True),  # signed after the revocation was sent
        ]
        history.refreshes = [Refresh("r1", "s1", "a", 9.0, 9.1, 200, "r2"), Refresh("r1", "s1", "b", 9.0, 9.1, 200, "r2"),
                             Refresh("r2", "s1", "b", 10.5, 10.6, 401, None)]
        history.streams = [Stream("t1", "a", 1.5, 4.9, 5.1), Stream("t1", "b", 1.5, 8.9, 9.1)]
        history.stopped["b"] = [(0.5, 1.0), (4.0, 9.0)]
        history.writes = [Write("name", "ann", "A", 1.0), Write("name", "ann", "B", 2.0)]
        return history

    def breaches(history, read="B"):
        return len(admitted_after(history)), len(used_twice(history)), len(lost(history, {("name", "ann"): read}))

    assert breaches(kept()) == (0, 0, 0), (admitted_after(kept()), used_twice(kept()))
    for change, expected in [
        (lambda history: history.requests.append(Request("t1", "c", 3.01, 3.02, 200, True)), (1, 0, 0)),
        # The answer was lost, but the app saw it.
        (lambda history: history.requests.append(Request("t2", "c", 10.01, 12.0, 0, True)), (1, 0, 0)),
        (lambda history: history.refreshes.append(Refresh("r2", "s1", "c", 10.01, 10.1, 200, "r3")), (1, 0, 0)),
        (lambda history: history.streams.append(Stream("t2", "c", 5.0, 12.01, 12.0)), (1, 0, 0)),
        (lambda history: history.refreshes.append(Refresh("r1", "s1", "c", 9.0, 9.1, 200, "r9")), (0, 1, 0)),
    ]:
        history = kept()
        change(history)
        assert breaches(history) == expected, (breaches(history), expected)
    assert breaches(kept(), read="A") == (0, 0, 1)
    assert breaches(kept(), read=None) == (0, 0, 1)
    history = kept()
    history.maybe["name", "ann"].add("C")
    assert breaches(history, read="C") == (0, 0, 0)
