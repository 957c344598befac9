"""Who follows the revocation log, how far they are, and since when a revocation is in force with all of them.

A verifier that asks says what it has applied, which keys it holds, and its lease: how long at most it
accepts tokens without hearing from us. From that follows when a revocation is in force with it: when
it has acknowledged it, or when its lease has run out since the revocation. It is stored that a
verifier may be accepting tokens before it gets an answer that lets it do so; so every replica knows
of all of them, and so does one that has just been started. How far verifiers are, each replica knows of
those that ask it; the others are told when they wait for it.
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

#: How much longer than its lease a verifier is stored as live at least, as the replicas' clocks may differ by that; and
#: how much longer still, so that not every question has to be stored. Nobody waits longer for it than for a lease.
CLOCK_SKEW = timedelta(minutes=1)
STORED_AHEAD = timedelta(minutes=1)

#: The lease in ms that counts for verifiers that accept tokens however long they have heard nothing.
NO_LEASE_MS = 30_000

#: Verifiers that one replica serves; each has a row and may hold up who waits.
MAX_VERIFIERS = 10_000

#: Calls that wait at a time; those beyond are told how far things are.
MAX_WAITERS = 100

#: Seconds between two looks of one that waits, for each verifier: looking takes about as long.
BATCH_SECONDS_PER_VERIFIER = 20e-6

#: Seconds that a look at the others may take, though nobody wants to wait.
MIN_QUERY_SECONDS = 0.25

#: Seconds after which a wait asks the other replicas again: a message between them may be lost.
REQUERY_SECONDS = 1.0


class Verifiers:
    """Keeps account of verifiers."""

    def __init__(
        self, store: Store, feed: RevocationFeed, publish: Callable[[str], Awaitable[None]], own_id: str, clock: Clock
    ) -> None:
        """Keep account in `store`; `publish` sends a message to all replicas. `own_id` is this replica's verifier."""
        self._store = store
        self._feed = feed
        self._publish = publish
        self._own_id = own_id
        self._clock = clock
        #: Those that ask this replica, and what is stored of them.
        self._heard: dict[str, RegisteredVerifier] = {}
        self._stored: dict[str, RegisteredVerifier] = {}
        self._changed: dict[str, RegisteredVerifier] = {}
        self._save = Coalesced(self._save_changed)
        self._tell = Coalesced(self._tell_others)
        #: The highest number that somebody waits for on another replica.
        self._wanted = 0
        self._news = asyncio.Event()
        #: Counts what others have stored or removed.
        self._changes = 0
        self._waiters = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_poll(self, verifier_id: str, acknowledged: int, keys: str, lease_ms: int | None) -> None:
        """Note a question, before it is answered. Raises TooManyVerifiers."""
        known = self._heard.get(verifier_id)
        if known is None and len(self._heard) >= MAX_VERIFIERS:
            raise TooManyVerifiers
        lease = NO_LEASE_MS if lease_ms is None else lease_ms
        needed = self._clock.now() + timedelta(milliseconds=lease) + CLOCK_SKEW
        stored = self._stored.get(verifier_id)
        is_stored = (
            stored is not None and (stored.keys, stored.lease_ms) == (keys, lease) and stored.live_until >= needed
        )
        live_until = stored.live_until if stored is not None and is_stored else needed + STORED_AHEAD
        verifier = self._heard[verifier_id] = RegisteredVerifier(verifier_id, acknowledged, keys, lease, live_until)
        if known is None or known.acknowledged < acknowledged:
            self._wake()
        if not is_stored:
            self._changed[verifier_id] = verifier
            await self._save()
        elif stored is not None and stored.acknowledged < min(acknowledged, self._wanted):
            self._in_background(self._tell)

    async def on_local_poll(self, lease_ms: int) -> None:
        """Note that this replica's own verifier has come as far as its log."""
        await self.on_poll(self._own_id, self._feed.number, LOCAL_KEYS, lease_ms)

    async def remove(self, verifier_id: str) -> None:
        """Forget a verifier that has ended."""
        self._forget([verifier_id])
        # What is being stored just now must not come after.
        await self._save()
        await self._delete(verifier_id)

    async def deregister(self) -> None:
        """Stop storing, and forget this replica's own verifier."""
        await self.close()
        await self._delete(self._own_id)

    def release_waiters(self) -> None:
        """Answer whoever waits, as the log does."""
        self._wake()

    async def close(self) -> None:
        """Stop what goes on in the background."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._tell.close()
        await self._save.close()

    def drop_expired(self) -> None:
        """Forget those that have not asked for long."""
        now = self._clock.now()
        self._forget([verifier.id for verifier in self._heard.values() if verifier.live_until < now])

    def on_message(self, message: str) -> None:
        """Take in a message of another replica."""
        if message == ACKNOWLEDGED:
            self._changes += 1
            self._wake()
        elif message.startswith(WANTED) and message.removeprefix(WANTED).isdecimal():
            self._wanted = max(self._wanted, int(message.removeprefix(WANTED)))
            self._in_background(self._tell)

    async def in_force(self, number: int, committed_at: float, seconds: float) -> InForce:
        """Wait so many seconds at most until a revocation, committed by then on the monotonic clock, is in force."""
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
                stored = await self._ask_others(number, deadline)
            known = list(self._heard.values()) if stored is None else stored
            verifiers = [self._as_known_here(verifier) for verifier in known]
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
                    # They come in crowds.
                    await asyncio.sleep(len(verifiers) * BATCH_SECONDS_PER_VERIFIER)

    async def _delete(self, verifier_id: str) -> None:
        async with self._store.write() as transaction:
            await transaction.verifiers.remove(verifier_id)
        self.on_message(ACKNOWLEDGED)
        await self._publish(ACKNOWLEDGED)

    async def _ask_others(self, number: int, deadline: float) -> list[RegisteredVerifier] | None:
        """Return what is stored of all verifiers, and have other replicas store how far theirs are.

        None if that cannot be known now: what was revoked is revoked, and who waits for it is not told an error.
        """
        try:
            async with asyncio.timeout(max(MIN_QUERY_SECONDS, deadline - self._clock.monotonic())):
                await self._feed.refresh()
                async with self._store.read() as transaction:
                    stored = await transaction.verifiers.live(self._clock.now())
                await self._publish(f"{WANTED}{number}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            _log.warning("verifiers cannot be looked up", error=str(getattr(error, "orig", None) or error))
            return None
        return stored

    def _as_known_here(self, stored: RegisteredVerifier) -> RegisteredVerifier:
        """Return a stored verifier with what is known of it here. One that is not stored has got no answer yet."""
        if stored.id == self._own_id:
            return replace(stored, acknowledged=self._feed.number)
        heard = self._heard.get(stored.id)
        if heard is None:
            return stored
        return replace(
            stored,
            acknowledged=max(stored.acknowledged, heard.acknowledged),
            lease_ms=max(stored.lease_ms, heard.lease_ms),
        )

    async def _save_changed(self) -> None:
        changed, self._changed = self._changed, {}
        if not changed:
            return
        try:
            async with self._store.write() as transaction:
                await transaction.verifiers.put(changed.values())
        except BaseException:
            # To be stored the next time.
            self._changed = {**changed, **self._changed}
            raise
        self._stored.update(changed)

    async def _tell_others(self) -> None:
        """Store how far verifiers are that somebody waits for on another replica, and say so."""
        own = self._heard.get(self._own_id)
        if own is not None:
            self._heard[self._own_id] = replace(own, acknowledged=self._feed.number)
        further = {
            verifier.id: verifier
            for verifier in self._heard.values()
            if (stored := self._stored.get(verifier.id))
            and stored.acknowledged < min(verifier.acknowledged, self._wanted)
        }
        if not further:
            return
        async with self._store.write() as transaction:
            # Not those that have left through another replica.
            live = {verifier.id for verifier in await transaction.verifiers.live(self._clock.now())}
            told = [verifier for verifier in further.values() if verifier.id in live]
            if told:
                await transaction.verifiers.put(told)
        self._stored.update({verifier.id: verifier for verifier in told})
        self._forget(further.keys() - live)
        if told:
            await self._publish(ACKNOWLEDGED)

    def _forget(self, verifier_ids: Iterable[str]) -> None:
        for verifier_id in verifier_ids:
            for known in (self._heard, self._stored, self._changed):
                known.pop(verifier_id, None)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _in_background(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - who waits asks again
                _log.warning("other replicas cannot be told", error=str(getattr(error, "orig", None) or error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
