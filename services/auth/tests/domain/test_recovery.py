"""A new revocation log begins, whatever else is going on; tests/integration has restored databases."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.keys import rotation
from ostiary_auth.services import Services

CONTEXT = Context(datetime(2026, 1, 1, tzinfo=UTC), SYSTEM)

_WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


async def is_waiting(services: Services) -> bool:
    async with services.database.read() as connection:
        return bool(await connection.scalar(_WAITING))


async def test_it_does_not_deadlock_with_a_rotation_of_keys(services: Services) -> None:
    if services.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    async with services.store.write() as transaction:
        await transaction.lock(rotation._LOCK)
        restart = asyncio.create_task(services.recovery.restart(CONTEXT))
        while not await is_waiting(services):
            await asyncio.sleep(0.01)
        await services.audit.record(transaction, CONTEXT, Event.KEY_SIGNS)
    assert await restart == 0
