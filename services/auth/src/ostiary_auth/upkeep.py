"""What the service does by itself while it runs: it follows the signing keys, rotates them, and prunes the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.services import Services

_log = structlog.stdlib.get_logger("upkeep")

#: Seconds between two looks at the stored keys: as long as a replica may sign with a key that another has retired.
FOLLOW_SECONDS = 1.0

#: Seconds between two looks at whether a key is due for rotation.
ADVANCE_SECONDS = 10.0

#: Seconds between two prunings, and rows of each kind in one batch.
PRUNE_SECONDS = 60.0
PRUNE_BATCH = 500
PRUNE_PAUSE_SECONDS = 0.01

#: Replicas that started together do not work in step: each wait is drawn from this range around its length.
JITTER = (0.8, 1.2)


class Upkeep:
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

    async def follow_keys(self) -> None:
        """Use the keys as they are stored, whichever replica or command changed them."""
        own_keys = self._services.own_keys
        own_keys.use(await self._services.keys.load(own_keys.current))

    async def advance_keys(self) -> None:
        """Rotate keys that are due."""
        await self._services.keys.advance(Context(datetime.now(UTC), SYSTEM))

    async def prune(self) -> None:
        """Delete what is over, a batch at a time until nothing is left."""
        idle = self._services.sessions.limits.idle
        deleted = PRUNE_BATCH
        while deleted >= PRUNE_BATCH:
            async with self._services.store.write() as transaction:
                deleted = await transaction.prune(datetime.now(UTC), idle=idle, limit=PRUNE_BATCH)
            # Others that want to write come first.
            await asyncio.sleep(PRUNE_PAUSE_SECONDS)

    async def _repeat(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(*JITTER))  # noqa: S311 - no secret
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next time may do
                _log.warning("upkeep failed", work=work.__name__, error=str(getattr(error, "orig", None) or error))
