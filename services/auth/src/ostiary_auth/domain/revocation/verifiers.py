"""The registry of verifiers: how far each follows the log, and when a revocation is in force with all.

A poll tells what the verifier has applied, which keys it holds, and its lease: the longest time that it accepts tokens
without hearing from us. A revocation is in force with it when it has acknowledged it, or when its lease has expired
since. A verifier is stored before it gets a response that lets it accept tokens, so every replica knows all of them,
also after a restart. Each replica knows the acknowledgements of the verifiers that poll it; it stores them when another
replica waits for them.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
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

#: A verifier is stored as live for its lease, plus the maximum difference between the replicas' clocks, plus a time in
#: which further polls need not be stored. No call waits longer for it than for its lease.
CLOCK_SKEW = timedelta(minutes=1)
STORED_AHEAD = timedelta(minutes=1)

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


class Verifiers:
    """Registers verifiers and waits for their acknowledgements.

    `publish` sends a message to all replicas. `own_id` is the id of this replica's own verifier.
    """

    def __init__(
        self, store: Store, feed: RevocationFeed, publish: Callable[[str], Awaitable[None]], own_id: str, clock: Clock
    ) -> None:
        self._store = store
        self._feed = feed
        self._publish = publish
        self._own_id = own_id
        self._clock = clock
        #: The verifiers that poll this replica: current, as stored, and to be stored.
        self._polled: dict[str, RegisteredVerifier] = {}
        self._stored: dict[str, RegisteredVerifier] = {}
        self._changed: dict[str, RegisteredVerifier] = {}
        self._save = Coalesced(self._save_changed)
        self._share = Coalesced(self._store_wanted)
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
        needed = self._clock.now() + timedelta(milliseconds=lease) + CLOCK_SKEW
        stored = self._stored.get(verifier_id)
        is_stored = (
            stored is not None and (stored.keys, stored.lease_ms) == (keys, lease) and stored.live_until >= needed
        )
        live_until = stored.live_until if stored is not None and is_stored else needed + STORED_AHEAD
        verifier = self._polled[verifier_id] = RegisteredVerifier(verifier_id, acknowledged, keys, lease, live_until)
        if known is None or known.acknowledged < acknowledged:
            self._wake()
        if not is_stored:
            self._changed[verifier_id] = verifier
            await self._save()
        elif stored is not None and stored.acknowledged < min(acknowledged, self._wanted):
            self._in_background(self._share)

    async def on_local_poll(self, lease_ms: int) -> None:
        """Register that this replica's own verifier is as far as the feed."""
        await self.on_poll(self._own_id, self._feed.number, LOCAL_KEYS, lease_ms)

    async def remove(self, verifier_id: str) -> None:
        """Remove a verifier that has shut down."""
        self._forget([verifier_id])
        # A pending write must not insert it again.
        await self._save()
        await self._delete(verifier_id)

    async def deregister(self) -> None:
        """Stop storing verifiers, and remove this replica's own."""
        await self.close()
        await self._delete(self._own_id)

    def release_waiters(self) -> None:
        """Answer all waiting calls: the service is shutting down."""
        self._wake()

    async def close(self) -> None:
        """Cancel background tasks."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._share.close()
        await self._save.close()

    def drop_expired(self) -> None:
        """Forget verifiers that have not polled for long."""
        now = self._clock.now()
        self._forget([verifier.id for verifier in self._polled.values() if verifier.live_until < now])

    def on_message(self, message: str) -> None:
        """Process a message from another replica."""
        if message == ACKNOWLEDGED:
            self._changes += 1
            self._wake()
        elif message.startswith(WANTED) and message.removeprefix(WANTED).isdecimal():
            self._wanted = max(self._wanted, int(message.removeprefix(WANTED)))
            self._in_background(self._share)

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
        stored: list[RegisteredVerifier] | None = None
        read_at, read_of = -math.inf, -1
        while True:
            news = self._news
            if self._clock.monotonic() >= read_at + REQUERY_SECONDS or read_of != self._changes:
                read_at, read_of = self._clock.monotonic(), self._changes
                stored = await self._query_all(number, deadline)
            known = list(self._polled.values()) if stored is None else stored
            verifiers = [self._merged(verifier) for verifier in known]
            now = self._clock.monotonic()
            waited_ms = (now - committed_at) * 1000
            missing = [each for each in verifiers if each.acknowledged < number and waited_ms < each.lease_ms]
            acknowledged = len([each for each in verifiers if each.acknowledged >= number])
            if stored is not None and not missing:
                return InForce(acknowledged, complete=True, after_ms=waited_ms)
            if now >= deadline or self._feed.is_closed:
                return InForce(acknowledged, complete=False, after_ms=None)
            leases_end = (committed_at + each.lease_ms / 1000 for each in missing)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(deadline, read_at + REQUERY_SECONDS, *leases_end) - now):
                    await news.wait()
                    # Acknowledgements come in bursts.
                    await asyncio.sleep(len(verifiers) * BATCH_SECONDS_PER_VERIFIER)

    async def _delete(self, verifier_id: str) -> None:
        async with self._store.write() as transaction:
            await transaction.verifiers.remove(verifier_id)
        self.on_message(ACKNOWLEDGED)
        await self._publish(ACKNOWLEDGED)

    async def _query_all(self, number: int, deadline: float) -> list[RegisteredVerifier] | None:
        """Return the stored verifiers, and make the other replicas store theirs. None if the database fails.

        The revocation is committed, so a failure to find out how far it has come is not an error.
        """
        try:
            async with asyncio.timeout(max(MIN_QUERY_SECONDS, deadline - self._clock.monotonic())):
                await self._feed.refresh()
                async with self._store.read() as transaction:
                    stored = await transaction.verifiers.live(self._clock.now())
                await self._publish(f"{WANTED}{number}")
        except Exception as error:  # noqa: BLE001 - any failure is retried
            _log.warning("reading verifiers failed", error=str(getattr(error, "orig", None) or error))
            return None
        return stored

    def _merged(self, stored: RegisteredVerifier) -> RegisteredVerifier:
        """Merge a stored verifier with what this replica knows of it."""
        if stored.id == self._own_id:
            return replace(stored, acknowledged=self._feed.number)
        polled = self._polled.get(stored.id)
        if polled is None:
            return stored
        return replace(
            stored,
            acknowledged=max(stored.acknowledged, polled.acknowledged),
            lease_ms=max(stored.lease_ms, polled.lease_ms),
        )

    async def _save_changed(self) -> None:
        changed, self._changed = self._changed, {}
        if not changed:
            return
        try:
            async with self._store.write() as transaction:
                await transaction.verifiers.put(changed.values())
        except BaseException:
            # Stored by the next run.
            self._changed = {**changed, **self._changed}
            raise
        self._stored.update(changed)

    async def _store_wanted(self) -> None:
        """Store acknowledgements that another replica waits for, and notify it."""
        own = self._polled.get(self._own_id)
        if own is not None:
            self._polled[self._own_id] = replace(own, acknowledged=self._feed.number)
        wanted = {
            verifier.id: verifier
            for verifier in self._polled.values()
            if (stored := self._stored.get(verifier.id))
            and stored.acknowledged < min(verifier.acknowledged, self._wanted)
        }
        if not wanted:
            return
        async with self._store.write() as transaction:
            # Except verifiers that another replica has removed.
            live = {verifier.id for verifier in await transaction.verifiers.live(self._clock.now())}
            shared = [verifier for verifier in wanted.values() if verifier.id in live]
            if shared:
                await transaction.verifiers.acknowledge(shared)
        self._stored.update({verifier.id: verifier for verifier in shared if verifier.id in self._polled})
        self._forget(wanted.keys() - live)
        if shared:
            await self._publish(ACKNOWLEDGED)

    def _forget(self, verifier_ids: Iterable[str]) -> None:
        for verifier_id in verifier_ids:
            for known in (self._polled, self._stored, self._changed):
                known.pop(verifier_id, None)

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
