"""The renewals of access tokens of browser sessions, of one process.

A session is renewed once at a time, and all requests that wait for it get the answer. There are so many exchanges at
once at most; the others wait in a queue in which no client's take the turns of the others'.

    begin --> QUEUED -- its turn --> EXCHANGING -- answer --> ANSWERED
                 |                       |
                 +---- took too long ----+---> ANSWERED, without an answer

What has been learnt is remembered, by the hash of the session's cookie: the renewed token until it ends, because it is
also needed by requests that were sent before its cookie was set; and that a session has ended, for a minute.
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from typing import Final, Protocol, TypeVar

import structlog

from ostiary import Verifier
from ostiary.prometheus import Timings
from ostiary_chassis.metrics import REQUEST_BUCKETS
from ostiary_gateway.access.renewal import RETRY_SECONDS, Renewal, RenewedToken, Session
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.sessions.answers import Answer
from ostiary_gateway.sessions.exchange_request import ExchangeRequest
from ostiary_gateway.sessions.gateway_secret import GatewaySecret
from ostiary_gateway.state import State
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.fair_queue import FairQueue

#: Exchanges at once: more than an auth service signs tokens for at a time. FairQueue limits those that wait.
MAX_EXCHANGES: Final = 16

#: Seconds from the first request that needs a token until all that wait give up.
RENEWAL_SECONDS: Final = 10.0

#: Renewed tokens and ended sessions that are remembered, and seconds for the latter. Some 20 MB.
MAX_REMEMBERED: Final = 10_000
ENDED_SECONDS: Final = 60.0

#: Seconds until a renewal for which nobody waits is tried again.
BACKGROUND_RETRY_SECONDS: Final = 2.0

#: What a busy auth service manages, for an estimate of how long a full queue lasts; and seconds that clients are asked
#: to wait at most.
EXCHANGES_PER_SECOND: Final = 200
MAX_RETRY_SECONDS: Final = 30

QUEUED: Final = State("queued")
EXCHANGING: Final = State("exchanging")
ANSWERED: Final = State("answered")
QUEUED.leads_to(EXCHANGING, ANSWERED)
EXCHANGING.leads_to(ANSWERED)

V = TypeVar("V")

_log = structlog.stdlib.get_logger("sessions")


class Waiter(Protocol):
    """Who waits for a renewal."""

    def on_renewal(self, context: RequestContext, renewal: Renewal) -> None:
        """Go on with the request, if it still waits."""


class _SessionRenewal:
    """The renewal of one session; the module's head draws its states."""

    def __init__(self, session: Session, caller: str, now: float) -> None:
        self.session = session
        self.caller = caller
        self.began_at = now
        self.waiters: dict[RequestContext, Waiter] = {}
        self.request: ExchangeRequest | None = None
        #: Whether the gateway's own credential has been read again.
        self.has_new_secret = False
        self.state: State = QUEUED

    def enter(self, state: State) -> None:
        self.state = self.state.to(state)


class SessionRenewals:
    """Renews access tokens, and remembers them. What admission knows as Renewals."""

    def __init__(self, verifier: Verifier, secret: GatewaySecret) -> None:
        self._verifier = verifier
        self._secret = secret
        #: The auth service; None without browser sessions.
        self.upstream: Cluster | None = None
        self._queue: FairQueue[_SessionRenewal] = FairQueue(MAX_EXCHANGES)
        self._renewals: dict[bytes, _SessionRenewal] = {}
        self._exchanging = 0
        #: By the session's key, the oldest first; the others with when it was learnt, on the monotonic clock.
        self._tokens: OrderedDict[bytes, RenewedToken] = OrderedDict()
        self._ended: OrderedDict[bytes, float] = OrderedDict()
        self._failed: OrderedDict[bytes, float] = OrderedDict()
        self._is_failing = False
        #: For metrics.
        self.outcomes: Counter[str] = Counter()
        self.seconds = Timings(REQUEST_BUCKETS)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(len(each.waiters) for each in self._renewals.values())

    @property
    def queued(self) -> int:
        """Renewals that wait for their turn."""
        return len(self._queue)

    @property
    def remembered(self) -> int:
        """Renewed tokens in memory."""
        return len(self._tokens)

    # Called by admission.

    def token_of(self, session: Session) -> RenewedToken | None:
        """Return the last renewed token of a session, which may not be valid any more."""
        return self._tokens.get(session.key)

    def has_ended(self, session: Session) -> bool:
        """Return whether the auth service has said within a minute that a session has ended."""
        since = self._ended.get(session.key)
        return since is not None and time.monotonic() - since < ENDED_SECONDS

    def forget(self, session: Session) -> None:
        """Forget the renewed token of a session: it is not valid."""
        self._tokens.pop(session.key, None)

    def begin(self, session: Session, caller: str) -> None:
        """Renew the token of a session, unless that is under way or has just failed. Nobody waits for it."""
        failed_at = self._failed.get(session.key)
        if failed_at is not None and time.monotonic() - failed_at < BACKGROUND_RETRY_SECONDS:
            return
        if not self.has_ended(session):
            self._begin(session, caller)

    # Called by connections with clients.

    def wait(self, session: Session, caller: str, context: RequestContext, waiter: Waiter) -> Renewal | None:
        """Renew the token of a session and tell `waiter` later, or return at once if too many wait already."""
        renewal = self._begin(session, caller)
        if renewal is None:
            self.outcomes["refused"] += 1
            return Renewal(retry_after=self._seconds_of_queue())
        renewal.waiters[context] = waiter
        return None

    def leave(self, session: Session, context: RequestContext) -> None:
        """Forget a request that does not wait any longer. The renewal goes on: others may need it."""
        renewal = self._renewals.get(session.key)
        if renewal is not None:
            renewal.waiters.pop(context, None)

    # Called by the process.

    def on_tick(self, now: float) -> None:
        """Give up on what takes too long, and forget what is over."""
        for renewal in [each for each in self._renewals.values() if now - each.began_at >= RENEWAL_SECONDS]:
            if renewal.request is not None:
                renewal.request.give_up()
            self._answer(renewal, Answer(fault="timed out"))
        for known, seconds in ((self._ended, ENDED_SECONDS), (self._failed, BACKGROUND_RETRY_SECONDS)):
            while known and now - next(iter(known.values())) >= seconds:
                known.popitem(last=False)
        while self._tokens and next(iter(self._tokens.values())).ends_at <= now:
            self._tokens.popitem(last=False)

    def close(self) -> None:
        """End all renewals."""
        for renewal in tuple(self._renewals.values()):
            if renewal.request is not None:
                renewal.request.give_up()
            self._answer(renewal, Answer(fault="the gateway stops"))

    # Renewals.

    def _begin(self, session: Session, caller: str) -> _SessionRenewal | None:
        """Return the renewal of a session that is under way, or a new one; None if there are too many."""
        renewal = self._renewals.get(session.key)
        if renewal is None:
            renewal = _SessionRenewal(session, caller, time.monotonic())
            if self._queue.may_connect(caller, self._exchanging):
                self._take_turn(renewal)
                # Later: whoever asks may be told only when that has returned.
                asyncio.get_running_loop().call_soon(self._exchange, renewal)
            elif not self._queue.append(renewal, 0.0):
                return None
            self._renewals[session.key] = renewal
        return renewal

    def _take_turn(self, renewal: _SessionRenewal) -> None:
        renewal.enter(EXCHANGING)
        self._queue.hold(renewal.caller)
        self._exchanging += 1

    def _exchange(self, renewal: _SessionRenewal) -> None:
        if renewal.state is not EXCHANGING:
            return
        try:
            authorization = self._secret.authorization()
        except (OSError, ValueError) as error:
            self._answer(renewal, Answer(fault=f"cannot read the gateway's secret: {error}"))
            return
        if self.upstream is None:
            self._answer(renewal, Answer(fault="browser sessions are off"))
            return

        def take(answer: Answer) -> None:
            self._take(renewal, answer)

        renewal.request = ExchangeRequest(self.upstream, renewal.session.value, authorization, renewal.caller, take)
        renewal.request.start()

    def _take(self, renewal: _SessionRenewal, answer: Answer) -> None:
        """Take an answer. If the gateway's secret is not accepted, ask again with that in the file."""
        if answer.is_refused and not renewal.has_new_secret:
            renewal.has_new_secret = True
            self._secret.forget()
            self._exchange(renewal)
        else:
            self._answer(renewal, answer)

    def _answer(self, renewal: _SessionRenewal, answer: Answer) -> None:
        """End a renewal, remember what it has told, and begin the next one."""
        now, key = time.monotonic(), renewal.session.key
        was_queued = renewal.state is QUEUED
        renewal.enter(ANSWERED)
        del self._renewals[key]
        if was_queued:
            self._queue.remove(renewal)
        else:
            self._queue.release(renewal.caller)
            self._exchanging -= 1
        self.seconds.note(now - renewal.began_at)
        outcome = self._remember(key, answer, now)
        loop = asyncio.get_running_loop()
        for context, waiter in renewal.waiters.items():
            # One by one: other connections have their turn in between.
            loop.call_soon(waiter.on_renewal, context, outcome)
        while (entry := self._queue.pop(self._exchanging)) is not None:
            self._take_turn(entry[0])
            loop.call_soon(self._exchange, entry[0])

    def _remember(self, key: bytes, answer: Answer, now: float) -> Renewal:
        if answer.is_ended:
            self._tokens.pop(key, None)
            _put(self._ended, key, now)
            self.outcomes["ended"] += 1
            self._note_health("")
            return Renewal(is_ended=True)
        if answer.token:
            token = RenewedToken(
                self._verifier.present(answer.token), now + answer.expires_in, is_persistent=answer.is_persistent
            )
            _put(self._tokens, key, token)
            self._failed.pop(key, None)
            self.outcomes["renewed"] += 1
            self._note_health("")
            return Renewal(token)
        _put(self._failed, key, now)
        self.outcomes["throttled" if answer.is_throttled else "failed"] += 1
        if not answer.is_throttled:
            self._note_health(answer.fault)
        return Renewal(retry_after=answer.retry_after or RETRY_SECONDS)

    def _note_health(self, fault: str) -> None:
        """Log the first failure after a success, and the first success after a failure."""
        if fault and not self._is_failing:
            _log.warning("sessions not renewed", reason=fault)
        elif not fault and self._is_failing:
            _log.info("sessions renewed again")
        self._is_failing = bool(fault)

    def _seconds_of_queue(self) -> int:
        """Return after how many seconds there will be a place, as far as can be told."""
        seconds = math.ceil(len(self._queue) / EXCHANGES_PER_SECOND)
        return min(MAX_RETRY_SECONDS, max(RETRY_SECONDS, seconds))


def _put(known: "OrderedDict[bytes, V]", key: bytes, value: V) -> None:
    """Add what is newest."""
    known.pop(key, None)
    known[key] = value
    if len(known) > MAX_REMEMBERED:
        known.popitem(last=False)
