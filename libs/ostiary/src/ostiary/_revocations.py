"""An issuer's revocations in memory, and their age.

Checks never block. Each answer of the feed adds revocations, which are removed in generations, when
all tokens that a generation can match have expired. Age counts from when the poll was *sent* that
was answered, on a clock that neither steps nor stops in suspend. So neither a slow network nor a
suspended machine makes stale revocations look fresh.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from ostiary._clock import suspend_aware_clock
from ostiary._compact import CompactSet, Name, name
from ostiary._token import VerifiedToken
from ostiary.errors import Revoked
from ostiary.feed import EVERYTHING, GENESIS, Answer, FeedFault, Kind, Position, Revocation, chain

_log = logging.getLogger("ostiary.revocations")

#: Seconds that a revocation is kept at least: the longest life of an access token.
MIN_RETENTION = 3600.0

#: Seconds added to the retention that the issuer asks for, as clocks drift.
RETENTION_MARGIN = 60.0

#: A generation accepts entries for this share of its first entry's retention, so there are three or four generations.
GENERATION_SHARE = 0.5


@dataclass(slots=True)
class _Generation:
    """Revoked sessions and tokens that arrived at about the same time. All can be removed at `ends_at`."""

    sessions: CompactSet
    #: None until a single token is revoked, which is rare: it saves a lookup.
    tokens: CompactSet | None
    closes_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class _Cutoff:
    """Revokes all tokens of a subject, a client, a key or the issuer that were issued before `number`."""

    number: int
    ends_at: float


#: The attributes that hold cutoffs, by their kind.
_CUTOFFS = {Kind.KEY: "_by_key", Kind.SUBJECT: "_by_subject", Kind.CLIENT: "_by_client", Kind.ALL: "_by_all"}


@dataclass(frozen=True, slots=True)
class Names:
    """The names under which a token can be revoked, hashed once for each token."""

    token: Name
    session: Name | None


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
        self._generations: tuple[_Generation, ...] = ()
        # Four attributes and not a dictionary, as each verification reads them.
        self._by_key: dict[str, _Cutoff] = {}
        self._by_subject: dict[str, _Cutoff] = {}
        self._by_client: dict[str, _Cutoff] = {}
        self._by_all: dict[str, _Cutoff] = {}
        self._listeners: dict[tuple[Kind, str], set[Callable[[], None]]] = {}

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

    @property
    def revoked_kids(self) -> dict[str, _Cutoff]:
        """Revoked keys, by their id."""
        return self._by_key

    def __len__(self) -> int:
        """Return the number of revocations in memory."""
        kept = sum(len(each.sessions) + len(each.tokens or ()) for each in self._generations)
        return kept + sum(len(getattr(self, attribute)) for attribute in _CUTOFFS.values())

    def check(self, token: VerifiedToken, get_names: Callable[[], Names]) -> None:
        """Raise Revoked if a token was revoked."""
        for generation in self._generations:
            names = get_names()
            if names.session is not None and names.session in generation.sessions:
                raise Revoked
            if generation.tokens is not None and names.token in generation.tokens:
                raise Revoked
        if token.key_id in self._by_key:
            raise Revoked
        position = token.log_position
        for cutoffs, target in (
            (self._by_subject, token.subject),
            (self._by_client, token.client_id),
            (self._by_all, EVERYTHING),
        ):
            # Most dictionaries are empty.
            if cutoffs and (cutoff := cutoffs.get(target)) is not None and position < cutoff.number:
                raise Revoked

    def has_session(self, session_id: str) -> bool:
        """Return whether a session is known to have ended. It is forgotten when its tokens have expired."""
        session = name(Kind.SESSION, session_id)
        return any(session in generation.sessions for generation in self._generations)

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
        self._add(answer)
        self._digest = answer.digest
        self.position = Position(answer.epoch, answer.head)
        self.receipt = answer.receipt
        if not answer.more:
            self._lease = lease
            self.fresh_at = max(self.fresh_at, sent_at)
        self._notify(answer.revocations)

    def watch(self, token: VerifiedToken, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` for each revocation that may match a token. Return a function that removes it."""
        targets = [
            (Kind.TOKEN, token.token_id),
            (Kind.KEY, token.key_id),
            (Kind.SUBJECT, token.subject),
            (Kind.CLIENT, token.client_id),
            (Kind.ALL, EVERYTHING),
        ]
        if token.session_id is not None:
            targets.append((Kind.SESSION, token.session_id))
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
        self._remove_expired(now)
        for revocation in answer.revocations:
            # A duration and not a point in time, as the clocks of the issuer's replicas and ours may differ.
            ends_at = now + max(MIN_RETENTION, revocation.expires_at - answer.issued_at) + RETENTION_MARGIN
            match revocation.kind:
                case Kind.SESSION as kind:
                    self._generation(now, ends_at).sessions.add(name(kind, revocation.target))
                case Kind.TOKEN as kind:
                    generation = self._generation(now, ends_at)
                    if generation.tokens is None:
                        generation.tokens = CompactSet()
                    generation.tokens.add(name(kind, revocation.target))
                case kind:
                    cutoffs: dict[str, _Cutoff] = getattr(self, _CUTOFFS[kind])
                    known = cutoffs.get(revocation.target)
                    ends_at = max(ends_at, known.ends_at) if known is not None else ends_at
                    cutoffs[revocation.target] = _Cutoff(revocation.number, ends_at)
        if answer.revocations:
            self.version += 1

    def _generation(self, now: float, ends_at: float) -> _Generation:
        """Return the generation for a revocation that arrives now."""
        if not self._generations or now >= self._generations[-1].closes_at:
            closes_at = now + (ends_at - now) * GENERATION_SHARE
            self._generations = (*self._generations, _Generation(CompactSet(), None, closes_at, ends_at))
        newest = self._generations[-1]
        newest.ends_at = max(newest.ends_at, ends_at)
        return newest

    def _remove_expired(self, now: float) -> None:
        if any(now >= generation.ends_at for generation in self._generations):
            self._generations = tuple(each for each in self._generations if now < each.ends_at)
        for attribute in _CUTOFFS.values():
            cutoffs: dict[str, _Cutoff] = getattr(self, attribute)
            if any(now >= cutoff.ends_at for cutoff in cutoffs.values()):
                # A new dictionary, as other threads may be reading the old one.
                setattr(self, attribute, {target: each for target, each in cutoffs.items() if now < each.ends_at})

    def _notify(self, revocations: tuple[Revocation, ...]) -> None:
        if self._listeners:
            for revocation in revocations:
                for listener in tuple(self._listeners.get((revocation.kind, revocation.target), ())):
                    try:
                        listener()
                    except Exception:  # noqa: BLE001 - the application's code; the other listeners must be called
                        _log.exception("token listener failed")


def names_of(token: VerifiedToken) -> Names:
    """Return the names of a token and its session."""
    session = token.session_id
    return Names(name(Kind.TOKEN, token.token_id), name(Kind.SESSION, session) if session is not None else None)
