"""The registry of verifiers: how far each follows the log, and when a revocation is in force with all.

A poll tells what the verifier has applied, which keys it holds, and its lease: the longest time that it accepts tokens
without hearing from us, counted from the poll. A revocation is in force with it when it has acknowledged it, or when
its lease is over.

Each replica keeps what the verifiers that poll it have told, and a row for each of them that only this replica writes.
A row is there before the verifier gets a response that lets it accept tokens, says that it lives a little longer than
it may, and is prolonged ahead of time; so every replica knows all verifiers, also after a restart, and polls are not
stored. The replica deletes the row when the lease is over, or when the verifier leaves, through whichever replica. What
verifiers acknowledge is stored when another replica waits for it.

  unknown -- first poll: stored --> live -- lease over since the last poll here, or it leaves: deleted --> unknown

A verifier that polls several replicas has a row of each. It has acknowledged what it has told any of them, and lives as
long as the last of its rows.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.coalesced import Coalesced
from ostiary_auth.domain.errors import TooManyVerifiers
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation.feed import RevocationFeed
from ostiary_auth.domain.revocation.messages import ACKNOWLEDGED, WANTED
from ostiary_auth.domain.revocation.model import LOCAL_KEYS, InForce, RegisteredVerifier

_log = structlog.stdlib.get_logger("verifiers")

#: Seconds beyond its lease for which a verifier is stored as live, and how many of them are left when that is
#: prolonged. In between, the database may stall without a poll having to wait for it. If a replica is killed together
#: with a verifier, calls wait so much longer for it.
STORED_AHEAD = 20.0
PROLONGED_BEFORE = 12.0

#: Seconds by which replicas may differ in what they take for the database's time.
MARGIN = 5.0

#: The lease in ms that is assumed for verifiers that accept tokens without any limit of staleness.
NO_LEASE_MS = 30_000

#: Maximum number of verifiers per replica; each has a row, and calls may wait for it.
MAX_VERIFIERS = 10_000

#: Maximum number of waiting calls; further ones get the current state.
MAX_WAITERS = 100

#: Seconds per verifier by which a waiting call delays its next check: a check takes about as long.
BATCH_SECONDS_PER_VERIFIER = 20e-6

#: Minimum timeout in seconds of a query, also for calls that do not wait.
MIN_QUERY_SECONDS = 0.25

#: Seconds after which a waiting call repeats its query: messages between replicas may be lost.
REQUERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Told:
    """What a verifier has told this replica, or of that what is stored; until then it lives (monotonic clock)."""

    acknowledged: int
    keys: str
    lease_ms: int
    lives_until: float


class Verifiers:
    """Registers verifiers and waits for their acknowledgements.

    `publish` sends a message to all replicas. `own_id` is the id of this replica, and of its own verifier.
    """

    def __init__(
        self, store: Store, feed: RevocationFeed, publish: Callable[[str], Awaitable[None]], own_id: str, clock: Clock
    ) -> None:
        self._store = store
        self._feed = feed
        self._publish = publish
        self._own_id = own_id
        self._clock = clock
        #: The verifiers that poll this replica, and what is stored of them.
        self._polled: dict[str, _Told] = {}
        self._stored: dict[str, _Told] = {}
        #: Those that a poll registers, those whose rows change, those whose lease is over, and those that have left.
        self._registered: set[str] = set()
        self._changed: set[str] = set()
        self._expired: set[str] = set()
        self._left: set[str] = set()
        self._write = Coalesced(self._write_changes)
        #: The highest number that another replica waits for.
        self._wanted = 0
        self._news = asyncio.Event()
        #: Incremented when other replicas have stored or removed verifiers.
        self._changes = 0
        self._waiters = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_poll(self, verifier_id: str, acknowledged: int, keys: str, lease_ms: int | None) -> None:
        """Register a poll, before it is answered. Raises TooManyVerifiers."""
        known = self._polled.get(verifier_id)
        if known is None and len(self._polled) >= MAX_VERIFIERS:
            raise TooManyVerifiers
        lease = NO_LEASE_MS if lease_ms is None else lease_ms
        lives_until = self._clock.monotonic() + lease / 1000
        if known is not None:
            # An answer to an earlier poll, with a longer lease, may be what it goes by.
            lease, lives_until = max(lease, known.lease_ms), max(lives_until, known.lives_until)
        self._polled[verifier_id] = _Told(acknowledged, keys, lease, lives_until)
        if known is None or known.acknowledged < acknowledged:
            self._wake()
        stored = self._stored.get(verifier_id)
        if stored is None or stored.lease_ms < lease or stored.lives_until < lives_until + MARGIN:
            self._registered.add(verifier_id)
            await self._write()
        elif stored.keys != keys or self._is_wanted(verifier_id, self._polled[verifier_id]):
            self._changed.add(verifier_id)
            self._in_background(self._write)

    async def on_local_poll(self, lease_ms: int) -> None:
        """Register that this replica's own verifier is as far as the feed."""
        await self.on_poll(self._own_id, self._feed.number, LOCAL_KEYS, lease_ms)

    async def remove(self, verifier_id: str) -> None:
        """Remove a verifier that has shut down."""
        self._left.add(verifier_id)
        self._forget([verifier_id])
        await self._write()

    def has_others(self) -> bool:
        """Return whether verifiers of other services have polled this replica lately, and have not left."""
        return any(verifier_id != self._own_id for verifier_id in self._polled)

    async def maintain(self) -> None:
        """Delete the rows of verifiers whose lease is over, and prolong those of the others ahead of time."""
        now = self._clock.monotonic()
        expired = [verifier_id for verifier_id, told in self._polled.items() if told.lives_until <= now]
        self._expired.update(expired)
        self._forget(expired)
        self._changed.update(
            verifier_id
            for verifier_id, stored in self._stored.items()
            if stored.lives_until < now + stored.lease_ms / 1000 + PROLONGED_BEFORE
        )
        await self._write()

    async def deregister(self) -> None:
        """Stop storing verifiers, and leave behind how long each may still accept tokens by what it heard here."""
        await self.close()
        self._left.add(self._own_id)
        self._forget([self._own_id])
        self._changed.update(self._stored)
        await self._write_changes(is_last=True)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def release_waiters(self) -> None:
        """Answer all waiting calls: the service is shutting down."""
        self._wake()

    async def close(self) -> None:
        """Cancel background tasks."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._write.close()

    def forget_stored(self) -> None:
        """Store each verifier again with its next poll, as the database may not have it."""
        self._stored.clear()

    def on_message(self, message: str) -> None:
        """Process a message from another replica."""
        if message == ACKNOWLEDGED:
            self._changes += 1
            self._wake()
        elif message.startswith(WANTED) and message.removeprefix(WANTED).isdecimal():
            self._wanted = max(self._wanted, int(message.removeprefix(WANTED)))
            self._share_wanted()

    async def in_force(self, number: int, committed_at: float, seconds: float) -> InForce:
        """Wait until a revocation is in force with all verifiers, but at most `seconds`.

        `committed_at` is a time on the monotonic clock at which it had been committed.
        """
        self._waiters += 1
        try:
            return await self._in_force(number, committed_at, seconds if self._waiters <= MAX_WAITERS else 0.0)
        finally:
            self._waiters -= 1

    async def _in_force(self, number: int, committed_at: float, seconds: float) -> InForce:
        deadline = self._clock.monotonic() + seconds
        rows: list[RegisteredVerifier] | None = None
        read_at, read_of = -math.inf, -1
        while True:
            news = self._news
            if self._clock.monotonic() >= read_at + REQUERY_SECONDS or read_of != self._changes:
                read_at, read_of = self._clock.monotonic(), self._changes
                rows = await self._read_all(number, deadline)
            verifiers = self._live(rows or ())
            now = self._clock.monotonic()
            # Whoever polled later has got it with the answer.
            ends = [
                min(told.lives_until, committed_at + told.lease_ms / 1000)
                for told in verifiers
                if told.acknowledged < number
            ]
            acknowledged = len(verifiers) - len(ends)
            if rows is not None and not any(now < end for end in ends):
                return InForce(acknowledged, complete=True, after_ms=(now - committed_at) * 1000)
            if now >= deadline or self._feed.is_closed:
                return InForce(acknowledged, complete=False, after_ms=None)
            until = min(deadline, read_at + REQUERY_SECONDS, *(end for end in ends if now < end))
            with suppress(TimeoutError):
                async with asyncio.timeout(until - now):
                    await news.wait()
                    # Acknowledgements come in bursts.
                    await asyncio.sleep(len(verifiers) * BATCH_SECONDS_PER_VERIFIER)

    async def _read_all(self, number: int, deadline: float) -> list[RegisteredVerifier] | None:
        """Return all rows, and make the other replicas store what they have been told. None if the database fails.

        The revocation is committed, so a failure to find out how far it has come is not an error.
        """
        stored = dict(self._stored)
        try:
            async with asyncio.timeout(max(MIN_QUERY_SECONDS, deadline - self._clock.monotonic())):
                await self._feed.refresh()
                async with self._store.read() as transaction:
                    rows = await transaction.verifiers.all()
                await self._publish(f"{WANTED}{number}")
        except Exception as error:  # noqa: BLE001 - any failure is retried
            _log.warning("reading verifiers failed", error=str(getattr(error, "orig", None) or error))
            return None
        left = stored.keys() - {row.id for row in rows if row.replica == self._own_id}
        # Through another replica, unless they have been stored anew meanwhile.
        self._forget(verifier_id for verifier_id in left if self._stored.get(verifier_id) is stored[verifier_id])
        return rows

    def _live(self, rows: Iterable[RegisteredVerifier]) -> list[_Told]:
        """Return all live verifiers, each once: by what those that poll this replica told, and by rows of others."""
        now, date = self._clock.monotonic(), self._clock.now()
        live = {verifier_id: told for verifier_id, told in self._polled.items() if now < told.lives_until}
        if self._own_id in live:
            live[self._own_id] = replace(live[self._own_id], acknowledged=self._feed.number)
        for row in rows:
            if row.replica == self._own_id or row.live_until <= date:
                continue
            lives_until = now + (row.live_until - date).total_seconds()
            known = live.get(row.id, _Told(0, row.keys, 0, -math.inf))
            live[row.id] = _Told(
                max(known.acknowledged, row.acknowledged),
                known.keys,
                max(known.lease_ms, row.lease_ms),
                max(known.lives_until, lives_until),
            )
        return list(live.values())

    async def _write_changes(self, *, is_last: bool = False) -> None:
        """Store what has changed; at last, for no longer than each verifier may accept tokens."""
        registered, changed, expired, left = self._registered, self._changed, self._expired, self._left
        self._registered, self._changed, self._expired, self._left = set(), set(), set(), set()
        now, told = self._clock.monotonic(), self._polled
        written = {
            verifier_id: told[verifier_id] if is_last else _prolonged(told[verifier_id], now)
            for verifier_id in registered | changed
            if verifier_id in told
        }
        if not (written or expired or left):
            return
        try:
            async with self._store.write() as transaction:
                if left:
                    await transaction.verifiers.remove(left)
                if expired:
                    await transaction.verifiers.remove(expired, self._own_id)
                # Others are not inserted: whose row is missing has left through another replica.
                if known := [self._row(each, written[each], now) for each in written if each not in registered]:
                    await transaction.verifiers.update(known)
                if new := [self._row(each, written[each], now) for each in written if each in registered]:
                    await transaction.verifiers.put(new)
        except BaseException:
            # Done by the next run.
            self._registered |= registered
            self._changed |= changed
            self._expired |= expired
            self._left |= left
            raise
        is_news = bool(expired or left) or any(self._is_wanted(each, written[each]) for each in written)
        self._stored.update({each: stored for each, stored in written.items() if each in self._polled})
        if is_news:
            self.on_message(ACKNOWLEDGED)
            self._in_background(lambda: self._publish(ACKNOWLEDGED))

    def _row(self, verifier_id: str, told: _Told, now: float) -> RegisteredVerifier:
        live_until = self._clock.now() + timedelta(seconds=told.lives_until - now)
        return RegisteredVerifier(verifier_id, self._own_id, told.acknowledged, told.keys, told.lease_ms, live_until)

    def _is_wanted(self, verifier_id: str, told: _Told) -> bool:
        """Return whether another replica waits for what this verifier has acknowledged since it was stored."""
        stored = self._stored.get(verifier_id)
        return (stored.acknowledged if stored else 0) < min(told.acknowledged, self._wanted)

    def _share_wanted(self) -> None:
        """Store acknowledgements that another replica waits for."""
        own = self._polled.get(self._own_id)
        if own is not None:
            self._polled[self._own_id] = replace(own, acknowledged=self._feed.number)
        wanted = {each for each, told in self._polled.items() if each in self._stored and self._is_wanted(each, told)}
        if wanted:
            self._changed |= wanted
            self._in_background(self._write)

    def _forget(self, verifier_ids: Iterable[str]) -> None:
        for verifier_id in verifier_ids:
            self._polled.pop(verifier_id, None)
            self._stored.pop(verifier_id, None)
            self._registered.discard(verifier_id)
            self._changed.discard(verifier_id)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _in_background(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the waiting replica retries
                _log.warning("sharing acknowledgements failed", error=str(getattr(error, "orig", None) or error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _prolonged(told: _Told, now: float) -> _Told:
    """Return what is stored of a verifier, so that it may go on polling for a while before that changes."""
    return replace(told, lives_until=now + told.lease_ms / 1000 + STORED_AHEAD)
