"""Background tasks: following keys and the feed, rotating keys, and pruning the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from ostiary_auth.domain.batch_size import BatchSize
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.services import Services

_log = structlog.stdlib.get_logger("background")

#: Seconds between readings of the database's clock, and between loads of the keys: a replica may sign that long with a
#: key that another one has retired.
FOLLOW_SECONDS = 1.0

#: Seconds between checks whether a key is due for rotation.
ADVANCE_SECONDS = 10.0

#: Seconds between corrections of attempt counters, if there is something to correct.
REFUND_SECONDS = 1.0

#: Seconds between looks for deleted users who still leave something.
ERASE_SECONDS = 10.0

#: Seconds between runs of the pruning, rows per transaction at most, and the pause between transactions.
PRUNE_SECONDS = 60.0
PRUNE_BATCH = 150
PRUNE_PAUSE_SECONDS = 0.01

#: Seconds between reads of the revocation log: messages may be lost, and SQLite has none.
FOLLOW_LOG_SECONDS = 1.25
FOLLOW_LOG_SECONDS_WITHOUT_MESSAGES = 0.2

#: Seconds between looks at which verifiers' leases are over: calls that wait for them return so much later.
MAINTAIN_SECONDS = 0.5

#: Each interval is multiplied by a random factor in this range, so that replicas do not work in step.
JITTER = (0.8, 1.2)


class Background:
    """Runs the tasks. A failure is logged and retried, for example until the database is back."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._prune_size = BatchSize(PRUNE_BATCH, services.clock)
        self._without_messages = services.database.is_sqlite

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self.follow_time, FOLLOW_SECONDS))
            tasks.create_task(self._repeat(self.follow_keys, FOLLOW_SECONDS))
            tasks.create_task(self._repeat(self.advance_keys, ADVANCE_SECONDS))
            tasks.create_task(self._repeat(self.prune, PRUNE_SECONDS))
            tasks.create_task(self._repeat(self.erase, ERASE_SECONDS))
            tasks.create_task(self._repeat(self.trim_audit_log, PRUNE_SECONDS))
            tasks.create_task(self._repeat(self.pay_refunds, REFUND_SECONDS))
            log_seconds = FOLLOW_LOG_SECONDS_WITHOUT_MESSAGES if self._without_messages else FOLLOW_LOG_SECONDS
            tasks.create_task(self._repeat(self.follow_feed, log_seconds))
            tasks.create_task(self._repeat(self._services.verifiers.maintain, MAINTAIN_SECONDS))
            tasks.create_task(self._when(self._services.revoked, self._services.feed.refresh))
            tasks.create_task(self._when(self._services.key_revoked, self.follow_keys))
            tasks.create_task(self._when(self._services.log_replaced, self._services.recover))
            tasks.create_task(self._services.database.listen(self._on_message, self._services.revoked.set))

    async def follow_time(self) -> None:
        await self._services.follow_time()

    async def follow_keys(self) -> None:
        """Load the stored keys, which other replicas and commands may have changed."""
        local_keys = self._services.local_keys
        local_keys.use(await self._services.keys.load(local_keys.current))

    async def follow_feed(self) -> None:
        # Where this is so frequent, what polls have read will do.
        await self._services.follow_feed(FOLLOW_LOG_SECONDS_WITHOUT_MESSAGES if self._without_messages else 0.0)
        await self._services.keep_receipt()

    async def advance_keys(self) -> None:
        await self._services.keys.advance(Context(self._services.clock.now(), SYSTEM))

    async def pay_refunds(self) -> None:
        """Take back attempts that failed because of the database."""
        await self._services.accounts.refunds.pay_all(self._services.store, self._services.clock.now())

    async def erase(self) -> None:
        """Remove what deleted users leave."""
        await self._services.accounts.erasure.run()

    async def prune(self) -> None:
        """Delete expired rows, in batches until none is left."""
        idle = self._services.sessions.limits.idle
        are_more = True
        while are_more:
            async with self._services.store.write() as transaction:
                with self._prune_size.measured() as rows:
                    looked_at = await transaction.prune(self._services.settled.now(), idle=idle, limit=rows)
            are_more = looked_at >= rows
            # Let waiting writers go first.
            await asyncio.sleep(PRUNE_PAUSE_SECONDS)
        self._services.feed.remove_expired(self._services.settled.now())

    async def trim_audit_log(self) -> None:
        """Delete entries of the audit log that need not be kept any longer."""
        now = self._services.clock.now()
        kept_from = self._services.settled.now() - timedelta(seconds=self._services.config.audit_retention)
        await self._services.audit.trim(self._services.store, kept_from, Context(now, SYSTEM))

    def _on_message(self, message: str) -> None:
        if message == REVOKED:
            self._services.revoked.set()
        else:
            self._services.verifiers.on_message(message)

    async def _when(self, event: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await event.wait()
            event.clear()
            await self._try(work)

    async def _repeat(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(*JITTER))  # noqa: S311 - no secret
            await self._try(work)

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - any failure is retried
            name = getattr(work, "__name__", "refresh")
            _log.warning("background task failed", task=name, error=str(getattr(error, "orig", None) or error))
