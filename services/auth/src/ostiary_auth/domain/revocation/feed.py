"""The revocation log as one replica knows it, and what it tells verifiers (`ostiary.feed`).

The log is in the store; the replica holds its head and its last part in memory, so that thousands
of verifiers can ask without a query for each. What makes an answer true is that the replica looks
at the store's head after the question has come; who asks at the same time shares a look.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

import structlog

from ostiary import LocalRevocations
from ostiary.feed import MAX_EVENTS, TYPE, Answer, FeedFault
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.coalesced import Coalesced
from ostiary_auth.domain.errors import LogReplaced
from ostiary_auth.domain.keys.key_ring import KeyRing
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation.model import LoggedRevocation, LogHead

_log = structlog.stdlib.get_logger("revocations")

#: Revocations kept in memory for verifiers that are a little behind; others are read from the store.
TAIL = 2 * MAX_EVENTS

#: Signed answers that are kept, by what was asked: nearly all verifiers are at the same place.
SIGNED_ANSWERS = 32

#: Seconds that a signed answer is given out; how long revocations are kept is counted from when it was signed.
SIGNED_FOR_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Signed:
    """A signed answer, and what it was made of."""

    text: str
    head: LogHead
    ring: KeyRing
    at: float


class RevocationFeed:
    """Follows the log, and answers questions about it."""

    def __init__(
        self,
        store: Store,
        issuer: str,
        ring: Callable[[], KeyRing],
        clock: Clock,
    ) -> None:
        """Follow the log in `store`; sign with what `ring` has at the time."""
        self._store = store
        self._issuer = issuer
        self._ring = ring
        self._clock = clock
        #: The same log for this process's own verifier.
        self.local = LocalRevocations()
        #: Looks at the store; what had been committed before the call is known after it.
        self.refresh = Coalesced(self._look)
        self.head: LogHead | None = None
        self._tail: deque[LoggedRevocation] = deque(maxlen=TAIL)
        self._signed: OrderedDict[int, _Signed] = OrderedDict()
        self._signing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._subscribers: list[Callable[[LoggedRevocation], None]] = []
        #: Whether the service is about to end, and nobody waits any more.
        self.is_closed = False

    @property
    def number(self) -> int:
        """The number of the last revocation."""
        return self.head.number if self.head else 0

    @property
    def epoch(self) -> str:
        """The log's name."""
        return self.head.epoch if self.head else ""

    def subscribe(self, subscriber: Callable[[LoggedRevocation], None]) -> None:
        """Have a function called with each revocation that comes."""
        self._subscribers.append(subscriber)

    def notify(self) -> None:
        """Let all who wait for news look again: keys have changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def release_waiters(self) -> None:
        """Answer whoever waits for news, now and from now on: the service is about to end."""
        self.is_closed = True
        self.notify()

    async def close(self) -> None:
        """Stop looking."""
        self.release_waiters()
        await self.refresh.close()

    async def wait_for_changes(self, after: int, keys: str, seconds: float) -> None:
        """Wait so many seconds at most until there is something after a number, or keys that are others than these."""
        try:
            async with asyncio.timeout(seconds):
                while not self.is_closed and self._is_all(after, keys):
                    await self._changed.wait()
        except TimeoutError:
            return

    async def signed_answer(self, after: int) -> str:
        """Return the signed answer to what came after a number. The log must have been looked at."""
        signed = self._signed.get(after)
        if signed is not None and self._is_current(signed):
            return signed.text
        # One at a time: who waited finds it made.
        async with self._signing:
            signed = self._signed.get(after)
            if signed is None or not self._is_current(signed):
                signed = await self._sign(after)
                self._signed[after] = signed
                self._signed.move_to_end(after)
                if len(self._signed) > SIGNED_ANSWERS:
                    self._signed.popitem(last=False)
            return signed.text

    async def refresh_local(self, register: Callable[[], Awaitable[None]]) -> None:
        """Look at the store for this process's own verifier, after it is known as one that accepts tokens."""
        asked_at = self.local.revocations.now()
        await register()
        await self.refresh()
        self.local.revocations.fresh_at = max(self.local.revocations.fresh_at, asked_at)

    async def _look(self) -> None:
        async with self._store.read() as transaction:
            head = await transaction.revocations.head()
            while self.head != head:
                found = await transaction.revocations.after(self.number, head.number, MAX_EVENTS)
                part = self._answer(self.number, head, found)
                self._apply_locally(part)
                self.head = LogHead(part.epoch, part.head, part.digest)
                self._tail.extend(found)
                for revocation in found:
                    for subscriber in self._subscribers:
                        subscriber(revocation)
                self.notify()

    def _apply_locally(self, part: Answer) -> None:
        try:
            # Not fresher by that: see `follow`.
            self.local.revocations.apply(part, -math.inf)
        except FeedFault as error:
            _log.error("the revocation log is not the one that was followed", reason=str(error))
            raise LogReplaced from None

    def _is_all(self, after: int, keys: str) -> bool:
        return self.head is not None and self.head.number == after and self._ring().version == keys

    def _is_current(self, signed: _Signed) -> bool:
        return (
            signed.head is self.head
            and signed.ring is self._ring()
            and self._clock.monotonic() < signed.at + SIGNED_FOR_SECONDS
        )

    async def _sign(self, after: int) -> _Signed:
        head, ring = self.head, self._ring()
        assert head is not None  # noqa: S101 - it has been looked at
        answer = self._answer(after, head, await self._after(after, head))
        return _Signed(ring.signing.sign(TYPE, answer.to_json()), head, ring, self._clock.monotonic())

    async def _after(self, number: int, head: LogHead) -> list[LoggedRevocation]:
        if number >= head.number:
            return []
        if self._tail and self._tail[0].number <= number + 1:
            following = (logged for logged in self._tail if logged.number > number)
            return list(islice(following, MAX_EVENTS))
        async with self._store.read() as transaction:
            return await transaction.revocations.after(number, head.number, MAX_EVENTS)

    def _answer(self, after: int, head: LogHead, found: list[LoggedRevocation]) -> Answer:
        """Return the answer to what came after a number; `found` are the first that did, or all."""
        more = len(found) == MAX_EVENTS and found[-1].number < head.number
        end = LogHead(head.epoch, found[-1].number, found[-1].digest) if more else head
        return Answer(
            issuer=self._issuer,
            issued_at=int(self._clock.now().timestamp()),
            epoch=head.epoch,
            first=after + 1,
            head=end.number,
            more=more,
            digest=end.digest,
            # What is over is deleted, so numbers may be missing.
            reset=len(found) != max(0, end.number - after),
            revocations=tuple(logged.revocation for logged in found),
            keys=self._ring().version,
        )
