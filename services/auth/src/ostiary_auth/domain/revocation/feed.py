"""The revocation feed: the log as one replica knows it, and the responses to verifiers (`ostiary.feed`).

The log is in the store; the replica holds its head and its last entries in memory, so that thousands of verifiers can
poll without a query for each. A response is up to date because the replica reads the head from the store after the poll
has arrived; concurrent polls share one read.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog

from ostiary import LocalRevocations
from ostiary.feed import MAX_EVENTS, MAX_NONCES, TYPE, Answer, FeedFault
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.coalesced import Coalesced, retrieve_error
from ostiary_auth.domain.errors import LogReplaced
from ostiary_auth.domain.keys.key_ring import KeyRing
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation.model import LoggedRevocation, LogHead, ReplacedLog
from ostiary_auth.domain.revocation.receipts import Receipts

_log = structlog.stdlib.get_logger("revocations")

#: Entries kept in memory, for verifiers that are slightly behind; older ones are read from the store.
TAIL = 2 * MAX_EVENTS

#: Seconds after which a read of the log is taken to hang, and another one begins: a connection may be dead, or the
#: database slow.
READ_PATIENCE_SECONDS = 0.5

#: Waits for changes end at whole multiples of this many seconds, so that polls which began at different times share a
#: signature: a thousand idle verifiers cost ten signatures a second. Waits shorter than the other number end exactly
#: when they are over.
GRID_SECONDS = 0.1
MIN_ALIGNED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Batch:
    """The nonces of polls that the same signed response will answer."""

    nonces: list[str]
    signed: "asyncio.Task[str]"


class RevocationFeed:
    """Follows the log and answers polls. `ring` returns the current keys."""

    def __init__(
        self,
        store: Store,
        issuer: str,
        ring: Callable[[], KeyRing],
        receipts: Receipts,
        clock: Clock,
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._ring = ring
        self._receipts = receipts
        self._clock = clock
        #: The entries for this process's own verifier.
        self.local = LocalRevocations()
        #: Reads the store: what was committed before the call is known after it.
        self.refresh = Coalesced(self._read, patience=READ_PATIENCE_SECONDS)
        self.head: LogHead | None = None
        self._tail: deque[LoggedRevocation] = deque(maxlen=TAIL)
        #: By `after`, those that take further polls.
        self._batches: dict[int, _Batch] = {}
        self._changed = asyncio.Event()
        self._subscribers: list[Callable[[LoggedRevocation], None]] = []
        #: The stored log, if it was found to lack entries, and what is called then.
        self.replaced: ReplacedLog | None = None
        self.on_replaced: Callable[[], None] = lambda: None
        #: Whether the service is shutting down, so that polls do not wait.
        self.is_closed = False

    @property
    def number(self) -> int:
        """The number of the last revocation."""
        return self.head.number if self.head else 0

    @property
    def epoch(self) -> str:
        """The name of the log."""
        return self.head.epoch if self.head else ""

    def subscribe(self, subscriber: Callable[[LoggedRevocation], None]) -> None:
        """Have `subscriber` called with each new revocation."""
        self._subscribers.append(subscriber)

    def notify(self) -> None:
        """Wake all waiting polls: there are new entries or keys."""
        self._changed.set()
        self._changed = asyncio.Event()

    def release_waiters(self) -> None:
        """Answer waiting polls now, and later ones without waiting: the service is shutting down."""
        self.is_closed = True
        self.notify()

    async def close(self) -> None:
        self.release_waiters()
        await self.refresh.close()

    async def wait_for_changes(self, after: int, keys: str, seconds: float) -> None:
        """Wait until there are entries after `after`, or keys other than `keys`, but at most `seconds`."""
        if seconds >= MIN_ALIGNED_SECONDS:
            seconds -= (self._clock.monotonic() + seconds) % GRID_SECONDS
        try:
            async with asyncio.timeout(seconds):
                while not self.is_closed and self._is_all(after, keys):
                    await self._changed.wait()
        except TimeoutError:
            return

    @property
    def receipt(self) -> str:
        """A proof of how far the log has come; "" before it was read."""
        return self._receipts.make(self.head) if self.head else ""

    async def check_receipt(self, receipt: str) -> None:
        """Check that the log has the entry that it once ended with. Call `refresh` before. Raises LogReplaced."""
        seen = self._receipts.read(receipt)
        if seen is not None and (head := self.head) is not None and await self._lacks(seen, head):
            raise self._note_replaced(head, seen.number, "it lacks an entry that was followed")

    async def signed_answer(self, after: int, nonce: str) -> str:
        """Return the signed response to a poll for entries after `after`. Call `refresh` before.

        Polls that get here at the same time, as they do when they are woken, share it.
        """
        batch = self._batches.get(after)
        if batch is None or len(batch.nonces) >= MAX_NONCES:
            nonces: list[str] = []
            batch = self._batches[after] = _Batch(nonces, asyncio.create_task(self._sign(after, nonces)))
            batch.signed.add_done_callback(retrieve_error)
        batch.nonces.append(nonce)
        # A caller that is cancelled does not take the response from the others.
        return await asyncio.shield(batch.signed)

    async def refresh_local(self, register: Callable[[], Awaitable[None]]) -> None:
        """Update this process's own verifier, after `register` has stored that it accepts tokens."""
        started_at = self.local.revocations.now()
        await register()
        await self.refresh()
        self.local.revocations.fresh_at = max(self.local.revocations.fresh_at, started_at)

    async def _read(self) -> None:
        async with self._store.follow() as transaction:
            known = self.head
            head = await transaction.revocations.head()
            while self.head != head:
                # Another read was quicker. That this one has seen less proves no loss, even if it began later.
                if self.head != known and head.number <= self.number:
                    return
                known = self.head
                # All of it, if a new log has begun.
                after = self.number if head.epoch == self.epoch else 0
                found = await transaction.revocations.after(after, head.number, MAX_EVENTS)
                if self.head == known:
                    self._apply(self._answer(after, head, found), found, head)

    def _apply(self, part: Answer, found: list[LoggedRevocation], stored: LogHead) -> None:
        self._apply_locally(part, stored)
        if part.epoch != self.epoch:
            self._tail.clear()
        self.head = LogHead(part.epoch, part.head, part.digest)
        self._tail.extend(found)
        for revocation in found:
            for subscriber in self._subscribers:
                subscriber(revocation)
        self.notify()

    def _apply_locally(self, part: Answer, stored: LogHead) -> None:
        try:
            # Freshness is set by `refresh_local`.
            self.local.revocations.apply(part, -math.inf)
        except FeedFault as error:
            raise self._note_replaced(stored, self.number, str(error)) from None

    def _note_replaced(self, stored: LogHead, number: int, reason: str) -> LogReplaced:
        _log.error("revocation log replaced", reason=reason)
        self.replaced = ReplacedLog(stored.epoch, number)
        self.on_replaced()
        return LogReplaced()

    async def _lacks(self, seen: LogHead, head: LogHead) -> bool:
        """Return whether the log lacks the entry that it once ended with; of an entry that was deleted, no."""
        if seen.number > head.number:
            return True
        if seen.epoch != head.epoch:
            # An earlier log, whose end was below.
            return False
        if seen.number == head.number:
            return seen.digest != head.digest
        found = await self._after(seen.number - 1, head, most=1)
        return bool(found) and found[0].number == seen.number and found[0].digest != seen.digest

    def _is_all(self, after: int, keys: str) -> bool:
        return self.head is not None and self.head.number == after and self._ring().version == keys

    async def _sign(self, after: int, nonces: list[str]) -> str:
        # Polls that come from here on may have to be told of a later head.
        if self._batches[after].nonces is nonces:
            del self._batches[after]
        head, signing = self.head, self._ring().signing
        assert head is not None  # noqa: S101 - `refresh` was called
        answer = self._answer(after, head, await self._after(after, head, MAX_EVENTS), nonces)
        return signing.sign(TYPE, answer.to_json())

    async def _after(self, number: int, head: LogHead, most: int) -> list[LoggedRevocation]:
        if number >= head.number:
            return []
        if self._tail and self._tail[0].number <= number + 1:
            following = (logged for logged in self._tail if logged.number > number)
            return list(islice(following, most))
        async with self._store.read() as transaction:
            return await transaction.revocations.after(number, head.number, most)

    def _answer(self, after: int, head: LogHead, found: list[LoggedRevocation], nonces: Sequence[str] = ()) -> Answer:
        """Return the response to polls. `found` are the first entries after `after`, or all of them."""
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
            # Expired entries are deleted, so numbers may be missing.
            reset=len(found) != max(0, end.number - after),
            revocations=tuple(logged.revocation for logged in found),
            keys=self._ring().version,
            nonces=tuple(nonces),
            receipt=self._receipts.make(end),
        )
