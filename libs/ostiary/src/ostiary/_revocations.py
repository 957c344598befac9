"""What an issuer has revoked, as far as this process knows, and how old that knowledge is.

All of it is in memory, so that looking never waits. It grows with each answer of the feed and is
thrown away in generations, when no token that a generation could hit is alive any more. Ages are
counted from when the question was *sent* that an answer belongs to, on a clock that neither steps
nor stops in suspend: so neither a slow network nor a sleeping machine makes old news look fresh.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from ostiary._clock import suspend_aware_clock
from ostiary._compact import CompactSet, Name, name
from ostiary._token import VerifiedToken
from ostiary.errors import RevocationStale, Revoked
from ostiary.feed import EVERYTHING, GENESIS, Answer, FeedFault, Kind, Position, Revocation, chain

_log = logging.getLogger("ostiary.revocations")

#: Seconds that a revocation is kept at least: as long as any access token of ours may live.
KEPT_AT_LEAST = 3600.0

#: Seconds that a revocation is kept longer than the issuer says: clocks run at slightly different speeds.
KEPT_LONGER = 60.0

#: A generation takes in what comes within this share of its first entry's life; so there are three or four.
GENERATION_SHARE = 0.5


@dataclass(slots=True)
class _Generation:
    """Revoked sessions and tokens that came at about the same time. All are over at `ends_at`."""

    sessions: CompactSet
    #: Few are revoked by themselves; where none is, nobody need look.
    tokens: CompactSet | None
    closes_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class _Cutoff:
    """All tokens of a subject, a client, a key or everybody that were issued before `number`."""

    number: int
    ends_at: float


#: Where cutoffs are kept, by what they hit.
_CUTOFFS = {Kind.KEY: "_by_key", Kind.SUBJECT: "_by_subject", Kind.CLIENT: "_by_client", Kind.ALL: "_by_all"}


@dataclass(frozen=True, slots=True)
class Names:
    """The names under which a token can be revoked by itself; made once for each."""

    token: Name
    session: Name | None


class Revocations:
    """One issuer's revocations. Applied on one thread; looked at from any."""

    def __init__(self, clock: Callable[[], float] = suspend_aware_clock) -> None:
        """Know nothing yet. `clock` is for tests."""
        self._clock = clock
        #: How far the log has been applied; None before the first answer.
        self.position: Position | None = None
        #: Changes with each revocation: what was good under the same version is good still.
        self.version = 0
        #: When the question was sent that was answered last with all that there is.
        self.fresh_at = -math.inf
        self._lease = math.inf
        self._digest = GENESIS
        self._generations: tuple[_Generation, ...] = ()
        # Four attributes, because each verification looks at them.
        self._by_key: dict[str, _Cutoff] = {}
        self._by_subject: dict[str, _Cutoff] = {}
        self._by_client: dict[str, _Cutoff] = {}
        self._by_all: dict[str, _Cutoff] = {}
        self._watches: dict[tuple[Kind, str], set[Callable[[], None]]] = {}
        self._moved: set[asyncio.Future[None]] = set()

    def now(self) -> float:
        """Return the present on the clock that ages are counted on."""
        return self._clock()

    def age(self) -> float:
        """Return how many seconds old this knowledge is; infinitely many before the first full set."""
        return self._clock() - self.fresh_at

    @property
    def complete(self) -> bool:
        """Whether there has been a first full set."""
        return self.fresh_at > -math.inf

    @property
    def revoked_kids(self) -> dict[str, _Cutoff]:
        """The ids of revoked keys."""
        return self._by_key

    def __len__(self) -> int:
        """Return how many revocations are held."""
        kept = sum(len(each.sessions) + len(each.tokens or ()) for each in self._generations)
        return kept + sum(len(getattr(self, attribute)) for attribute in _CUTOFFS.values())

    def check(self, token: VerifiedToken, names_of_it: Callable[[], Names]) -> None:
        """Check that a token has not been revoked. Raises Revoked."""
        for generation in self._generations:
            names = names_of_it()
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
            # Most are empty.
            if cutoffs and (cutoff := cutoffs.get(target)) is not None and position < cutoff.number:
                raise Revoked

    def bears(self, max_staleness: float) -> bool:
        """Return whether this knowledge is not older than so many seconds, nor than what the issuer was told."""
        age = self._clock() - self.fresh_at
        return age <= max_staleness and age <= self._lease

    def apply(self, answer: Answer, asked_at: float, lease: float = math.inf) -> None:
        """Take in an answer to the question sent at `asked_at`, all of it or nothing. Raises FeedFault.

        `lease` is how old this may get, in seconds, as the issuer was told with the question; it counts on that.

        What is known already stays known, whatever the answer leaves out.
        """
        number = self.position.number if self.position else 0
        if self.position is not None and answer.epoch != self.position.epoch:
            raise FeedFault("another log than before")
        if answer.head < number:
            raise FeedFault("the log has become shorter")
        if answer.first != number + 1:
            raise FeedFault("the answer to another question")
        # What a reset leaves out cannot be chained; where it adds nothing, the chain has to be at the same place.
        if not answer.reset or (self.position is not None and answer.head == number):
            digest = self._digest
            for revocation in answer.revocations:
                digest = chain(digest, revocation)
            if digest != answer.digest:
                raise FeedFault("the log's past is not the one that was known")
        self._take_in(answer)
        self._digest = answer.digest
        self.position = Position(answer.epoch, answer.head)
        if not answer.more:
            self._lease = lease
            self.fresh_at = max(self.fresh_at, asked_at)
        self._wake(answer.revocations)

    async def reach(self, position: Position, seconds: float) -> None:
        """Wait so many seconds at most until this has come as far as `position`. Raises RevocationStale."""
        try:
            async with asyncio.timeout(seconds):
                while not self._has_reached(position):
                    moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._moved.add(moved)
                    try:
                        await moved
                    finally:
                        self._moved.discard(moved)
        except TimeoutError:
            raise RevocationStale from None

    def watch(self, token: VerifiedToken, look: Callable[[], None]) -> Callable[[], None]:
        """Call `look` when something comes that may hit a token. Return what ends that."""
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
            self._watches.setdefault(target, set()).add(look)

        def end() -> None:
            for target in targets:
                watching = self._watches.get(target, set())
                watching.discard(look)
                if not watching:
                    self._watches.pop(target, None)

        return end

    def _has_reached(self, position: Position) -> bool:
        own = self.position
        return own is not None and own.epoch == position.epoch and own.number >= position.number

    def _take_in(self, answer: Answer) -> None:
        now = self._clock()
        self._throw_away(now)
        for revocation in answer.revocations:
            # How long it matters, not when it ends: the clocks of the issuer's replicas and ours may differ.
            ends_at = now + max(KEPT_AT_LEAST, revocation.expires_at - answer.issued_at) + KEPT_LONGER
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
        """Return the generation that something which comes now belongs to."""
        if not self._generations or now >= self._generations[-1].closes_at:
            closes_at = now + (ends_at - now) * GENERATION_SHARE
            self._generations = (*self._generations, _Generation(CompactSet(), None, closes_at, ends_at))
        newest = self._generations[-1]
        newest.ends_at = max(newest.ends_at, ends_at)
        return newest

    def _throw_away(self, now: float) -> None:
        """Forget what can hit nothing any more."""
        if any(now >= generation.ends_at for generation in self._generations):
            self._generations = tuple(each for each in self._generations if now < each.ends_at)
        for attribute in _CUTOFFS.values():
            cutoffs: dict[str, _Cutoff] = getattr(self, attribute)
            if any(now >= cutoff.ends_at for cutoff in cutoffs.values()):
                # A new one, as other threads may be looking.
                setattr(self, attribute, {target: each for target, each in cutoffs.items() if now < each.ends_at})

    def _wake(self, revocations: tuple[Revocation, ...]) -> None:
        for moved in tuple(self._moved):
            if not moved.done():
                moved.set_result(None)
        if self._watches:
            for revocation in revocations:
                for look in tuple(self._watches.get((revocation.kind, revocation.target), ())):
                    try:
                        look()
                    except Exception:  # noqa: BLE001 - it is the application's
                        # The others are to be told whatever it does.
                        _log.exception("what was to be done at a token's end has failed")


def names_of(token: VerifiedToken) -> Names:
    """Return the names under which a token can be revoked by itself."""
    session = token.session_id
    return Names(name(Kind.TOKEN, token.token_id), name(Kind.SESSION, session) if session is not None else None)
