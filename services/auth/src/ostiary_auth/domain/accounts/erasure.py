"""Removing what deleted users leave: their sessions, and personal data in the audit log.

A deletion takes effect in one transaction: nobody finds the user any more, and their name, address and password are
gone. What depends on them may be hundreds of thousands of rows, so it is removed after that, in small transactions that
keep nobody waiting. Whatever ends the process, the next run goes on.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

import structlog

from ostiary_auth.domain.batch_size import BatchSize
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.context import user_actor
from ostiary_auth.domain.ports import Store

_log = structlog.stdlib.get_logger("accounts")

#: Rows removed in one transaction at most.
ROWS_AT_ONCE = 150

#: Entries of the audit log that are looked up at once, so that a long log is not searched for each transaction.
ENTRIES_FOUND_AT_ONCE = 5000

#: Deleted users that are looked up at once.
USERS_AT_ONCE = 100

#: Seconds between two transactions, so that waiting writers go first.
PAUSE_SECONDS = 0.01

#: Transactions that whoever deletes a user waits for: enough for all that most users leave.
TRANSACTIONS_WAITED_FOR = 10


class Erasure:
    """Removes what deleted users leave."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._size = BatchSize(ROWS_AT_ONCE, clock)

    async def begin(self, user_id: UUID) -> None:
        """Begin to remove the rows of a user who has just been deleted; small users are done at once."""
        try:
            await self._erase(user_id, TRANSACTIONS_WAITED_FOR)
        except Exception as error:  # noqa: BLE001 - the user is deleted, and the next run goes on
            _log.warning("erasure interrupted", error=str(getattr(error, "orig", None) or error))

    async def run(self) -> None:
        """Remove what all deleted users leave, to the end."""
        async with self._store.read() as transaction:
            user_ids = await transaction.users.deleted(USERS_AT_ONCE)
        failures = []
        for user_id in user_ids:
            try:
                await self._erase(user_id)
            except Exception as error:  # noqa: BLE001 - the others have to go, too
                failures.append(error)
        if failures:
            raise failures[0]

    async def _erase(self, user_id: UUID, transactions: int | None = None) -> None:
        """Remove what a user leaves, in so many transactions at most, and then the user."""
        done = 0
        async with aclosing(self._steps(user_id)) as steps:
            async for _ in steps:
                done += 1
                if done == transactions:
                    return
                await asyncio.sleep(PAUSE_SECONDS)
        async with self._store.write() as transaction:
            await transaction.users.remove_deleted(user_id)

    async def _steps(self, user_id: UUID) -> AsyncGenerator[None, None]:
        """Remove some rows with each step."""
        is_done = False
        while not is_done:
            async with self._store.write() as transaction:
                with self._size.measured() as rows:
                    is_done = await transaction.sessions.remove_some(user_id, rows) == 0
            yield
        actor = user_actor(user_id)
        while numbers := await self._numbers(actor):
            done = 0
            while done < len(numbers):
                async with self._store.write() as transaction:
                    with self._size.measured() as rows:
                        await transaction.audit.erase_personal(numbers[done : done + rows])
                done += rows
                yield

    async def _numbers(self, actor: str) -> list[int]:
        async with self._store.read() as transaction:
            return await transaction.audit.with_personal(actor, ENTRIES_FOUND_AT_ONCE)
