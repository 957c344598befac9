"""The revocation log has no gaps, and its entries outlive the tokens that they revoke."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary.feed import Kind
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.log import EXPIRY_MARGIN, RevocationLog
from ostiary_auth.storage.revocation.tables import revocations
from ostiary_auth.storage.store import AuthStore as Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TOKEN_LIFETIME = timedelta(minutes=15)


@pytest.fixture
def log() -> RevocationLog:
    return RevocationLog(AuditLog(bytes(32)), TOKEN_LIFETIME)


class TestRevocations:
    async def numbers(self, connection: AsyncConnection) -> list[int]:
        rows = await connection.execute(select(revocations.c.number).order_by(revocations.c.number))
        return [row.number for row in rows]

    async def test_at_no_time_has_the_log_a_gap(self, store: Store, log: RevocationLog) -> None:
        left = 30

        async def append(number: int) -> None:
            nonlocal left
            async with store.write() as transaction:
                await log.revoke(transaction, Context(NOW), Kind.SESSION, str(number))
            left -= 1

        async def watch() -> None:
            while left:
                async with store.database.read() as connection:
                    seen = await self.numbers(connection)
                assert seen == list(range(1, len(seen) + 1))

        await asyncio.gather(watch(), *(append(number) for number in range(30)))
        async with store.database.read() as connection:
            assert await self.numbers(connection) == list(range(1, 31))

    async def test_a_rolled_back_revocation_leaves_no_gap(self, store: Store, log: RevocationLog) -> None:

        async def fail() -> None:
            async with store.write() as transaction:
                await log.revoke(transaction, Context(NOW), Kind.TOKEN, "1")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        async with store.write() as transaction:
            await log.revoke(transaction, Context(NOW), Kind.TOKEN, "2")
        async with store.database.read() as connection:
            assert await self.numbers(connection) == [1]

    async def test_no_number_is_used_again_after_pruning(self, store: Store, log: RevocationLog) -> None:
        later = NOW + TOKEN_LIFETIME + EXPIRY_MARGIN + SECOND
        async with store.write() as transaction:
            for target in ("1", "2", "3"):
                await log.revoke(transaction, Context(NOW), Kind.TOKEN, target)
        async with store.write() as transaction:
            assert await transaction.prune(later, idle=timedelta(days=14), limit=100) == 3
        async with store.write() as transaction:
            await log.revoke(transaction, Context(later), Kind.TOKEN, "4")
        async with store.database.read() as connection:
            assert await self.numbers(connection) == [4]

    async def test_a_revocation_outlives_every_token_that_it_hits(self, store: Store, log: RevocationLog) -> None:
        async with store.write() as transaction:
            await log.revoke(transaction, Context(NOW), Kind.SUBJECT, "ada")
        async with store.read() as transaction:
            (found,) = await transaction.revocations.of({Kind.SUBJECT: "ada"})
        cutoff = NOW
        assert (found.at, found.expires_at) == (cutoff, cutoff + TOKEN_LIFETIME + EXPIRY_MARGIN)
