"""An issuer's revocations in memory, and their age.

Checks never block. Each answer of the feed adds revocations, which are removed in generations, when
all tokens that a generation can match have expired. Age counts from when the poll was *sent* that
was answered, on a clock that neither steps nor stops in suspend. So neither a slow network nor a
suspended machine makes stale revocations look fresh.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sized
from functools import lru_cache
from typing import Generic, TypeVar

from ostiary._clock import suspend_aware_clock
from ostiary._compact import Name, NameSet, NumbersByName, name
from ostiary._token import VerifiedToken
from ostiary.errors import Revoked
from ostiary.feed import EVERYTHING, GENESIS, Answer, FeedFault, Kind, Position, chain

_log = logging.getLogger("ostiary.revocations")

#: Seconds that a revocation is kept at least: the longest life of an access token.
MIN_RETENTION = 3600.0

#: Seconds added to the retention that the issuer asks for, as clocks drift.
RETENTION_MARGIN = 60.0

#: A generation accepts entries for this share of its first entry's retention, so there are three or four generations.
GENERATION_SHARE = 0.5

#: Keys and clients whose names are in the cache; an issuer has few of them, and many tokens of each.
_CACHED_NAMES = 1024

_EVERYTHING = name(Kind.ALL, EVERYTHING)

_Members = TypeVar("_Members", bound=Sized)


class _Generations(Generic[_Members]):
    """Revocations of one kind, by when they arrived. Each generation is removed as a whole, when all of it has ended.

    So what is live costs nothing when something arrives or ends, however much it is.
    """

    def __init__(self, new: Callable[[], _Members]) -> None:
        self._new = new
        #: Replaced and not changed, as other threads may be reading it.
        self.live: tuple[_Members, ...] = ()
        #: Until when each accepts entries, and when it ends.
        self._closes_at: list[float] = []
        self._ends_at: list[float] = []

    def __len__(self) -> int:
        return sum(len(members) for members in self.live)

    def accept(self, now: float, ends_at: float) -> _Members:
        """Return the generation for what arrives now, and has to be kept until `ends_at`."""
        if not self.live or now >= self._closes_at[-1]:
            self._closes_at.append(now + (ends_at - now) * GENERATION_SHARE)
            self._ends_at.append(ends_at)
            self.live = (*self.live, self._new())
        self._ends_at[-1] = max(self._ends_at[-1], ends_at)
        return self.live[-1]

    def remove_ended(self, now: float) -> None:
        """Remove the generations that have ended."""
        if any(now >= ends_at for ends_at in self._ends_at):
            kept = [index for index, ends_at in enumerate(self._ends_at) if now < ends_at]
            self.live = tuple(self.live[index] for index in kept)
            self._closes_at = [self._closes_at[index] for index in kept]
            self._ends_at = [self._ends_at[index] for index in kept]


class Names:
    """The names under which a token can be revoked, each computed when it is first needed."""

    __slots__ = ("_session", "_subject", "_token", "_verified")

    def __init__(self, token: VerifiedToken) -> None:
        self._verified = token
        self._session: Name | None = None
        self._subject: Name | None = None
        self._token: Name | None = None

    def session(self) -> Name | None:
        """Return the name of the token's session, if it has one."""
        session_id = self._verified.session_id
        if self._session is None and session_id is not None:
            self._session = name(Kind.SESSION, session_id)
        return self._session

    def subject(self) -> Name:
        if self._subject is None:
            self._subject = name(Kind.SUBJECT, self._verified.subject)
        return self._subject

    def token(self) -> Name:
        if self._token is None:
            self._token = name(Kind.TOKEN, self._verified.token_id)
        return self._token


class Revocations:
    """One issuer's revocations. One thread applies answers; any thread may check tokens."""

    def __init__(self, clock: Callable[[], float] = suspend_aware_clock) -> None:
        """`clock` is for tests."""
        self._clock = clock
        #: Up to which revocation the log was applied; None before the first answer.
        self.position: Position | None = None
        #: The issuer's proof that its log came as far; "" before the first answer.
        self.receipt = ""
        #: Changes with each revocation, so a token that passed under this version need not be checked again.
        self.version = 0
        #: When the last poll was sent whose answer was complete.
        self.fresh_at = -math.inf
        self._lease = math.inf
        self._digest = GENESIS
        # Attributes and not a dictionary, as each verification reads them.
        self._sessions = _Generations(NameSet)
        self._tokens = _Generations(NameSet)
        self._keys = _Generations(NameSet)
        #: Cutoffs: what was issued before a number in the log.
        self._subjects = _Generations(NumbersByName)
        self._clients = _Generations(NumbersByName)
        self._all = _Generations(NumbersByName)
        self._sets = {Kind.SESSION: self._sessions, Kind.TOKEN: self._tokens, Kind.KEY: self._keys}
        self._cutoffs = {Kind.SUBJECT: self._subjects, Kind.CLIENT: self._clients, Kind.ALL: self._all}
        self._listeners: dict[Name, set[Callable[[], None]]] = {}

    def now(self) -> float:
        """Return the current time of the clock that measures age."""
        return self._clock()

    def age(self) -> float:
        """Return the age in seconds, which is infinite before the first full set."""
        return self._clock() - self.fresh_at

    @property
    def complete(self) -> bool:
        """Whether a first full set was applied."""
        return self.fresh_at > -math.inf

    def __len__(self) -> int:
        """Return the number of revocations in memory."""
        return sum(map(len, self._sets.values())) + sum(map(len, self._cutoffs.values()))

    def check(self, token: VerifiedToken, get_names: Callable[[], Names]) -> None:
        """Raise Revoked if a token was revoked."""
        # Most kinds have no revocations.
        if self._sessions.live and (session := get_names().session()) is not None:
            _check_set(self._sessions.live, session)
        if self._tokens.live:
            _check_set(self._tokens.live, get_names().token())
        if self._keys.live:
            _check_set(self._keys.live, _shared_name(Kind.KEY, token.key_id))
        position = token.log_position
        if self._subjects.live:
            _check_cutoffs(self._subjects.live, get_names().subject(), position)
        if self._clients.live:
            _check_cutoffs(self._clients.live, _shared_name(Kind.CLIENT, token.client_id), position)
        if self._all.live:
            _check_cutoffs(self._all.live, _EVERYTHING, position)

    def has_session(self, session_id: str) -> bool:
        """Return whether a session is known to have ended. It is forgotten when its tokens have expired."""
        session = name(Kind.SESSION, session_id)
        return any(session in members for members in self._sessions.live)

    def has_key(self, key_id: str) -> bool:
        """Return whether a key is known to have been revoked."""
        key = _shared_name(Kind.KEY, key_id)
        return any(key in members for members in self._keys.live)

    def is_fresh(self, max_staleness: float) -> bool:
        """Return whether the age is within `max_staleness` seconds, and within the lease that the issuer counts on."""
        age = self._clock() - self.fresh_at
        return age <= max_staleness and age <= self._lease

    def apply(self, answer: Answer, sent_at: float, lease: float = math.inf) -> None:
        """Apply the answer to a poll that was sent at `sent_at`, all of it or nothing. Raises FeedFault.

        `lease` is the age in seconds up to which these revocations are used, as the poll told the issuer, which counts
        on it. Known revocations stay, whatever the answer omits, and also if the issuer has begun a new log.
        """
        number = self.position.number if self.position else 0
        is_new_log = self.position is not None and answer.epoch != self.position.epoch
        is_first = self.position is None or is_new_log
        # A log that begins anew goes on above all numbers of the one before; an older one is below.
        if is_new_log and (answer.first != 1 or answer.head <= number):
            raise FeedFault("another log than before")
        if answer.head < number:
            raise FeedFault("the log has become shorter")
        if answer.first != number + 1 and not is_new_log:
            raise FeedFault("answer to another poll")
        # The chain cannot be computed over what a reset omits. If it adds nothing, the digest has to be the same.
        if not answer.reset or (self.position is not None and answer.head == number):
            digest = GENESIS if is_new_log else self._digest
            for revocation in answer.revocations:
                digest = chain(digest, revocation)
            if digest != answer.digest:
                raise FeedFault("the log's past has changed")
        # The base links a page to what was followed before, as the chain over its revocations would.
        elif answer.page is not None and not is_first and answer.page.base not in {None, self._digest}:
            raise FeedFault("the log's past has changed")
        self._add(answer)
        self._digest = answer.digest
        self.position = Position(answer.epoch, answer.head)
        self.receipt = answer.receipt
        if not answer.more:
            self._lease = lease
            self.fresh_at = max(self.fresh_at, sent_at)
        self._notify(answer)

    def watch(self, token: VerifiedToken, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` for each revocation that may match a token. Return a function that removes it."""
        targets = [
            name(Kind.TOKEN, token.token_id),
            _shared_name(Kind.KEY, token.key_id),
            name(Kind.SUBJECT, token.subject),
            _shared_name(Kind.CLIENT, token.client_id),
            _EVERYTHING,
        ]
        if token.session_id is not None:
            targets.append(name(Kind.SESSION, token.session_id))
        for target in targets:
            self._listeners.setdefault(target, set()).add(listener)

        def remove() -> None:
            for target in targets:
                listeners = self._listeners.get(target, set())
                listeners.discard(listener)
                if not listeners:
                    self._listeners.pop(target, None)

        return remove

    def _add(self, answer: Answer) -> None:
        now = self._clock()
        for sets in self._sets.values():
            sets.remove_ended(now)
        for cutoffs in self._cutoffs.values():
            cutoffs.remove_ended(now)

        def ends_at(expires_at: int) -> float:
            # A duration and not a point in time, as the clocks of the issuer's replicas and ours may differ.
            return now + max(MIN_RETENTION, expires_at - answer.issued_at) + RETENTION_MARGIN

        others: Iterable[tuple[int, Kind, int, Name]]
        if answer.page is not None:
            if (found := answer.page.sessions()) is not None:
                sessions, expires_at = found
                self._sessions.accept(now, ends_at(expires_at)).update(sessions)
            others = answer.page.others()
        else:
            others = [(one.number, one.kind, one.expires_at, one.name) for one in answer.revocations]
        for number, kind, expires_at, target in others:
            if kind in self._sets:
                self._sets[kind].accept(now, ends_at(expires_at)).add(target)
            else:
                self._cutoffs[kind].accept(now, ends_at(expires_at)).put(target, number)
        if answer.revocations or answer.page is not None:
            self.version += 1

    def _notify(self, answer: Answer) -> None:
        if self._listeners:
            page = answer.page
            names = page.names() if page is not None else [one.name for one in answer.revocations]
            for target in names:
                for listener in tuple(self._listeners.get(target, ())):
                    try:
                        listener()
                    except Exception:  # noqa: BLE001 - the application's code; the other listeners must be called
                        _log.exception("token listener failed")


def _check_set(live: tuple[NameSet, ...], wanted: Name) -> None:
    for members in live:
        if wanted in members:
            raise Revoked


def _check_cutoffs(live: tuple[NumbersByName, ...], wanted: Name, position: int) -> None:
    for members in live:
        if position < members.get(wanted):
            raise Revoked


@lru_cache(maxsize=_CACHED_NAMES)
def _shared_name(kind: Kind, target: str) -> Name:
    return name(kind, target)
