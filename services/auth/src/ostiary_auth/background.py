"""What the service does while it runs: it follows keys and the log, rotates keys, and prunes the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.services import Services

_log = structlog.stdlib.get_logger("background")

#: Seconds between two looks at the stored keys: as long as a replica may sign with a key that another has retired.
FOLLOW_SECONDS = 1.0

#: Seconds between two looks at whether a key is due for rotation.
ADVANCE_SECONDS = 10.0

#: Seconds between two prunings, and rows of each kind in one batch.
PRUNE_SECONDS = 60.0
PRUNE_BATCH = 500
PRUNE_PAUSE_SECONDS = 0.01

#: Seconds between two looks at the revocation log: for what comes from other processes without a message, as on
#: SQLite, and for messages that get lost.
FOLLOW_LOG_SECONDS = 1.25
FOLLOW_LOG_SECONDS_WITHOUT_MESSAGES = 0.2

#: Replicas that started together do not work in step: each wait is drawn from this range around its length.
JITTER = (0.8, 1.2)


class Background:
    """Background work. A failure is logged and tried again: a database that was away comes back."""

    def __init__(self, services: Services) -> None:
        """Look after these parts."""
        self._services = services

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self.follow_keys, FOLLOW_SECONDS))
            tasks.create_task(self._repeat(self.advance_keys, ADVANCE_SECONDS))
            tasks.create_task(self._repeat(self.prune, PRUNE_SECONDS))
            alone = self._services.database.is_sqlite
            log_seconds = FOLLOW_LOG_SECONDS_WITHOUT_MESSAGES if alone else FOLLOW_LOG_SECONDS
            tasks.create_task(self._repeat(self.follow_feed, log_seconds))
            tasks.create_task(self._when(self._services.revoked, self._services.feed.refresh))
            tasks.create_task(self._when(self._services.key_revoked, self.follow_keys))
            tasks.create_task(self._services.database.listen(self._on_message, self._services.revoked.set))

    async def follow_keys(self) -> None:
        """Use the keys as they are stored, whichever replica or command changed them."""
        local_keys = self._services.local_keys
        local_keys.use(await self._services.keys.load(local_keys.current))

    async def follow_feed(self) -> None:
        """Know what has been revoked, and say so for this replica's own verifier."""
        await self._services.follow_feed()

    async def advance_keys(self) -> None:
        """Rotate keys that are due."""
        await self._services.keys.advance(Context(self._services.clock.now(), SYSTEM))

    async def prune(self) -> None:
        """Delete what is over, a batch at a time until nothing is left."""
        self._services.verifiers.drop_expired()
        idle = self._services.sessions.limits.idle
        deleted = PRUNE_BATCH
        while deleted >= PRUNE_BATCH:
            async with self._services.store.write() as transaction:
                deleted = await transaction.prune(self._services.clock.now(), idle=idle, limit=PRUNE_BATCH)
            # Others that want to write come first.
            await asyncio.sleep(PRUNE_PAUSE_SECONDS)

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
        except Exception as error:  # noqa: BLE001 - whatever it was, the next time may do
            name = getattr(work, "__name__", "refresh")
            _log.warning("background failed", work=name, error=str(getattr(error, "orig", None) or error))
