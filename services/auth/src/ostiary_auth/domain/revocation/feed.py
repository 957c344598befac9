"""The revocation feed: the log as one replica knows it, and the responses to verifiers (`ostiary.feed`).

The log is in the store; the replica holds what is live of it in memory, so that thousands of verifiers can poll without
a query for each. A verifier that lacks no more than the last few thousand entries is told each of them; one that is
further behind gets pages in compact form. A response is up to date because the replica reads the head from the store
after the poll has arrived; concurrent polls share one read.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from itertools import dropwhile, islice

import structlog

from ostiary import LocalRevocations
from ostiary.feed import MAX_EVENTS, MAX_NONCES, PAGE_NUMBERS, TYPE, Answer, FeedFault, Kind, Page, Revocation
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.coalesced import Coalesced, retrieve_error
from ostiary_auth.domain.errors import LogReplaced
from ostiary_auth.domain.keys.key_ring import KeyRing
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.model import Entry, LogHead, ReplacedLog
from ostiary_auth.domain.revocation.pages import Pages, Part, part_of, parts_of
from ostiary_auth.domain.revocation.receipts import Receipts

_log = structlog.stdlib.get_logger("revocations")

#: How many entries a verifier may lack to be told each of them, with the chain to check.
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
    signed: "asyncio.Task[bytes]"


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
        #: When the last read began that is complete, on the monotonic clock.
        self._read_at = -math.inf
        self._pages = Pages()
        #: The last entries, and the number after which they are all that is live.
        self._tail: deque[Entry] = deque(maxlen=TAIL)
        self._tail_begins_after = 0
        #: By `after`, those that take further polls.
        self._batches: dict[int, _Batch] = {}
        self._changed = asyncio.Event()
        self._subscribers: list[Callable[[Kind, str], None]] = []
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

    def subscribe(self, subscriber: Callable[[Kind, str], None]) -> None:
        """Have `subscriber` called with the kind and the target of each new revocation that is not of a session."""
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

    async def signed_answer(self, after: int, nonce: str) -> bytes:
        """Return the body of the signed response to a poll for entries after `after`. Call `refresh` before.

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

    async def refresh_local(self, register: Callable[[], Awaitable[None]], max_age: float) -> None:
        """Update this process's own verifier, after `register` has stored that it accepts tokens.

        If the store was read for a poll less than `max_age` seconds ago, it is not read again.
        """
        await register()
        if self._clock.monotonic() - self._read_at >= max_age:
            await self.refresh()
        age = self._clock.monotonic() - self._read_at
        self.local.revocations.fresh_at = max(self.local.revocations.fresh_at, self.local.revocations.now() - age)

    def remove_expired(self, now: datetime) -> None:
        """Forget entries that have expired by a time that has certainly come."""
        self._pages.remove_expired(now.timestamp())
        for _ in range(len(self._tail) - len(self._pages)):
            self._tail.popleft()

    async def _read(self) -> None:
        began_at = self._clock.monotonic()
        await self._read_log()
        self._read_at = max(self._read_at, began_at)

    async def _read_log(self) -> None:
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
                if head.number - after > TAIL:
                    await self._read_pages(transaction, after, head)
                    if self.head != known:
                        continue
                found = await transaction.revocations.entries(after, head.number, MAX_EVENTS)
                if self.head == known:
                    self._apply_events(self._answer(after, head, found), found, head)

    async def _read_pages(self, transaction: Transaction, after: int, head: LogHead) -> None:
        """Read what is before the last entries, half a page at a time, as that takes half a turn of the loop."""
        known = self.head
        parts = transaction.revocations.columns(after, head.number - TAIL, PAGE_NUMBERS // 2)
        async with aclosing(parts):
            async for columns in parts:
                if self.head != known:
                    return
                part = part_of(columns)
                end = LogHead(head.epoch, part.number, part.digest)
                # The base links it to what is known.
                answer = self._page_answer(after, end, Page(part.start, columns.base, part.rows), more=True)
                self._apply_page(answer, part, columns.others(), head)
                known, after = self.head, part.number

    def _apply_events(self, answer: Answer, found: list[Entry], stored: LogHead) -> None:
        self._apply(answer, stored)
        for part in parts_of(found):
            self._pages.add(part)
        self._tail.extend(found)
        if len(self._tail) == TAIL:
            self._tail_begins_after = max(self._tail_begins_after, self._tail[0].number - 1)
        self._announce((entry.kind, entry.target) for entry in found if entry.kind is not Kind.SESSION)

    def _apply_page(self, answer: Answer, part: Part, others: Iterable[tuple[Kind, str]], stored: LogHead) -> None:
        self._apply(answer, stored)
        self._pages.add(part)
        self._tail.clear()
        self._tail_begins_after = part.number
        self._announce(others)

    def _apply(self, answer: Answer, stored: LogHead) -> None:
        self._apply_locally(answer, stored)
        if answer.epoch != self.epoch:
            self._tail.clear()
            self._tail_begins_after = 0
            self._pages.clear()
        self.head = LogHead(answer.epoch, answer.head, answer.digest)

    def _announce(self, others: Iterable[tuple[Kind, str]]) -> None:
        for kind, target in others:
            for subscriber in self._subscribers:
                subscriber(kind, target)
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
        return await self._digest_at(seen.number, head) not in {None, seen.digest}

    def _is_all(self, after: int, keys: str) -> bool:
        return self.head is not None and self.head.number == after and self._ring().version == keys

    async def _sign(self, after: int, nonces: list[str]) -> bytes:
        # Polls that come from here on may have to be told of a later head.
        if self._batches[after].nonces is nonces:
            del self._batches[after]
        head, signing = self.head, self._ring().signing
        assert head is not None  # noqa: S101 - `refresh` was called
        part = self._pages.after(after) if after < self._tail_begins_after else None
        if part is None:
            following = dropwhile(lambda entry: entry.number <= after, self._tail)
            answer = self._answer(after, head, list(islice(following, MAX_EVENTS)), nonces)
            return signing.sign(TYPE, answer.to_json()).encode()
        page = Page(part.start, await self._digest_at(after, head), part.rows)
        end = LogHead(head.epoch, part.number, part.digest)
        answer = self._page_answer(after, end, page, nonces, more=part.number < head.number)
        return b"%s\n%s" % (signing.sign(TYPE, answer.to_json()).encode(), page.rows)

    async def _digest_at(self, number: int, head: LogHead) -> bytes | None:
        """Return the chain's digest at an entry, or None if it was deleted."""
        if number == head.number:
            return head.digest
        known = next((entry.digest for entry in self._tail if entry.number == number), self._pages.digest_at(number))
        if known is not None or number == 0:
            return known
        async with self._store.read() as transaction:
            found = await transaction.revocations.entries(number - 1, number, 1)
        return found[0].digest if found else None

    def _answer(self, after: int, head: LogHead, found: list[Entry], nonces: Sequence[str] = ()) -> Answer:
        """Return the response to polls. `found` are the first entries after `after`, or all of them."""
        more = len(found) == MAX_EVENTS and found[-1].number < head.number
        end = LogHead(head.epoch, found[-1].number, found[-1].digest) if more else head
        return self._answer_until(
            end,
            after,
            more=more,
            # Expired entries are deleted, so numbers may be missing.
            reset=len(found) != max(0, end.number - after),
            revocations=tuple(entry.revocation for entry in found),
            nonces=nonces,
        )

    def _page_answer(self, after: int, end: LogHead, page: Page, nonces: Sequence[str] = (), *, more: bool) -> Answer:
        return self._answer_until(end, after, more=more, reset=True, page=page, nonces=nonces)

    def _answer_until(
        self,
        end: LogHead,
        after: int,
        *,
        more: bool,
        reset: bool,
        revocations: tuple[Revocation, ...] = (),
        page: Page | None = None,
        nonces: Sequence[str],
    ) -> Answer:
        return Answer(
            issuer=self._issuer,
            issued_at=int(self._clock.now().timestamp()),
            epoch=end.epoch,
            first=after + 1,
            head=end.number,
            more=more,
            digest=end.digest,
            reset=reset,
            revocations=revocations,
            keys=self._ring().version,
            page=page,
            nonces=tuple(nonces),
            receipt=self._receipts.make(end),
        )
