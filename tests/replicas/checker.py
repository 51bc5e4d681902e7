"""What happened, in one time base, and whether the promises of replicas were kept.

The rules, for every moment by the one clock of `machines.now`:

- A request or a refresh that was sent after a revocation of its token was acknowledged is admitted nowhere: neither is it
  answered as admitted, nor does it reach the app, however late. The same holds for one that was sent to a replica while that
  was stopped, and could be decided only after that.
- A stream that a token opened carries nothing that the app sent later than `STREAM_GRACE` after that, by the time that its
  replica was not stopped: one that has confirmed a revocation ends what is under way as soon as it runs.
- What was acknowledged is there at the end, after every replica was started anew.
- A refresh token has one successor, and none once that was used.
- A token that nothing may have revoked is not refused as one that is not good.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

STREAM_GRACE = 2.0  # seconds; what is under way is ended within about one, as without replicas
# How a breach is told that a replica has made which was stopped when the request came.
DECIDED_LATER = "sent before, and decided after"
STOPPING = 0.1  # seconds, after which a process that was told to stop has stopped


@dataclass
class Token:
    """An access token or a session cookie, of one session of one subject, or of none."""

    text: str
    subject: str
    session: str | None
    got: float  # when it was there


@dataclass
class Revocation:
    """`kind` is "token", "session" or "subject"; `acknowledged` is None where no answer or a refusal came. `way` is how it was
    asked for."""

    kind: str
    target: str
    sent: float
    acknowledged: float | None
    replica: str
    # What the answer says of the replicas.
    told: dict = field(default_factory=dict)
    way: str = ""


@dataclass
class Request:
    """`status` is 0 without an answer. `check` is the name by which the app notes that it came there; `kind` is what it was sent
    as."""

    token: str
    replica: str
    sent: float
    done: float
    status: int
    check: str = ""
    kind: str = "request"


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
        # What reached the app, by the names of requests, and when: the app's own list.
        self.arrivals = {}
        # Sessions of which it is not known whether a request has ended them.
        self.doubtful = set()

    def token(self, text, subject, session, got):
        self.tokens[text] = Token(text, subject, session, got)

    def admitted(self, request):
        """Whether the gateway let it pass, by the answer or by the app."""
        return request.status in (101, 200) or request.check in self.arrivals

    def decided(self, replica, sent):
        """No request that was sent to a replica at this moment was decided there before the moment that this returns."""
        return max((end for begin, end in self.stopped[replica] if begin + STOPPING < sent < end), default=sent)

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

    def maybe_dead_since(self):
        """From when each token may have been revoked, by what was asked for: infinity where nothing was."""
        since = defaultdict(lambda: math.inf)
        for revocation in self.revocations:
            key = revocation.kind, revocation.target
            since[key] = min(since[key], revocation.sent)
        return {token.text: min(since["token", token.text], since["session", token.session], since["subject", token.subject])
                for token in self.tokens.values()}

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
        if history.admitted(request) and history.decided(request.replica, request.sent) > since:
            how = f"sent {request.sent - since:.3f}s after" if request.sent > since else DECIDED_LATER
            found.append(f"a {request.kind} at {request.replica} was admitted that was {how} the revocation of its token was acknowledged")
    sessions = history.sessions_dead_since()
    for refresh in history.refreshes:
        since = sessions[refresh.session]
        if refresh.successor and history.decided(refresh.replica, refresh.sent) > since:
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


def replayed(history):
    """Refresh tokens that were exchanged once more after their successor had been used."""
    used, found = {}, []
    for refresh in history.refreshes:
        if refresh.successor:
            used[refresh.presented] = min(refresh.done, used.get(refresh.presented, math.inf))
    successors = {refresh.presented: refresh.successor for refresh in history.refreshes if refresh.successor}
    for refresh in history.refreshes:
        since = used.get(successors.get(refresh.presented), math.inf)
        if refresh.successor and refresh.sent > since:
            found.append(f"a refresh token was exchanged at {refresh.replica} {refresh.sent - since:.3f}s after its successor had been used")
    return found


def refused_wrongly(history):
    """Tokens that were refused although nothing may have revoked them."""
    maybe, found = history.maybe_dead_since(), []
    for request in history.requests:
        token = history.tokens[request.token]
        if request.status == 401 and request.done < maybe[request.token] and token.session not in history.doubtful:
            found.append(f"a {request.kind} at {request.replica} was refused although nothing had revoked its token")
    return found


def found(history):
    """Every breach that can be seen before anything is read back."""
    return admitted_after(history) + used_twice(history) + replayed(history) + refused_wrongly(history)


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
            Request("t1", "a", 2.9, 3.5, 200),  # sent before the acknowledgement
            Request("t1", "a", 3.1, 3.5, 401), Request("t1", "b", 3.1, 9.0, 0, "c1"),
            Request("t2", "b", 9.9, 10.5, 200),  # its session's end was never acknowledged
            Request("t3", "b", 11.0, 11.1, 200),  # signed after the revocation was sent
            Request("t1", "d", 2.5, 2.8, 200),  # it may have been decided when the replica was told to stop
        ]
        history.refreshes = [Refresh("r1", "s1", "a", 9.0, 9.1, 200, "r2"), Refresh("r1", "s1", "b", 9.0, 9.1, 200, "r2"),
                             Refresh("r2", "s1", "b", 10.5, 10.6, 401, None)]
        history.streams = [Stream("t1", "a", 1.5, 4.9, 5.1), Stream("t1", "b", 1.5, 8.9, 9.1)]
        history.stopped["b"] = [(0.5, 1.0), (4.0, 9.0)]
        history.stopped["d"] = [(2.45, 5.0)]
        history.refreshes += [Refresh("r2", "s1", "a", 9.2, 9.3, 200, "r3"), Refresh("r1", "s1", "a", 9.25, 9.4, 200, "r2"),
                              Refresh("r1", "s1", "a", 9.35, 9.4, 401, None)]
        history.writes = [Write("name", "ann", "A", 1.0), Write("name", "ann", "B", 2.0)]
        return history

    def breaches(history, read="B"):
        return tuple(map(len, (admitted_after(history), used_twice(history), replayed(history), refused_wrongly(history),
                               lost(history, {("name", "ann"): read}))))

    assert breaches(kept()) == (0, 0, 0, 0, 0), breaches(kept())
    for change, expected in [
        (lambda history: history.requests.append(Request("t1", "c", 3.01, 3.02, 200)), (1, 0, 0, 0, 0)),
        (lambda history: history.requests.append(Request("t1", "c", 3.01, 3.02, 101, kind="socket")), (1, 0, 0, 0, 0)),
        # The answer was lost, but the app saw it, before or long after.
        (lambda history: history.arrivals.update(c1=9.5), (1, 0, 0, 0, 0)),
        # It waited in a socket of a replica that was stopped when it came.
        (lambda history: history.requests.append(Request("t1", "d", 2.6, 5.1, 200)), (1, 0, 0, 0, 0)),
        (lambda history: history.refreshes.append(Refresh("r3", "s1", "c", 10.01, 10.1, 200, "r4")), (1, 0, 0, 0, 0)),
        (lambda history: history.streams.append(Stream("t2", "c", 5.0, 12.01, 12.0)), (1, 0, 0, 0, 0)),
        (lambda history: history.refreshes.append(Refresh("r1", "s1", "c", 9.0, 9.1, 200, "r9")), (0, 1, 0, 0, 0)),
        (lambda history: history.refreshes.append(Refresh("r1", "s1", "c", 9.31, 9.4, 200, "r2")), (0, 0, 1, 0, 0)),
        # Nothing was asked that covers it before that.
        (lambda history: history.requests.append(Request("t1", "c", 1.5, 1.9, 401)), (0, 0, 0, 1, 0)),
        (lambda history: (history.requests.append(Request("t1", "c", 1.5, 1.9, 401)), history.doubtful.add("s1")), (0, 0, 0, 0, 0)),
    ]:
        history = kept()
        change(history)
        assert breaches(history) == expected, (breaches(history), expected)
    assert breaches(kept(), read="A") == (0, 0, 0, 0, 1)
    assert breaches(kept(), read=None) == (0, 0, 0, 0, 1)
    history = kept()
    history.maybe["name", "ann"].add("C")
    assert breaches(history, read="C") == (0, 0, 0, 0, 0)
