"""How PostgreSQL carries out what is done all the time, in tables of which it has no statistics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from users import new_user

from ostiary_auth.background import PRUNE_BATCH
from ostiary_auth.domain.accounts import attempts, throttle
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.domain.sessions.model import RefreshToken, SessionEnd
from ostiary_auth.domain.sessions.session_secrets import SessionProof
from ostiary_auth.services import Services
from ostiary_auth.storage.store import AuthTransaction

pytestmark = pytest.mark.parametrize(
    "template", [pytest.param("prepared_on_postgres", marks=pytest.mark.docker)], indirect=True
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
IDLE = timedelta(days=14)

#: Rows that were last changed five minutes apart, until `NOW`. What was not for fifteen days is over.
ROWS = 4400
OVER = ROWS - 15 * 24 * 12

#: A row in each table, and a session with two refresh tokens, of which one was used.
FILL = """
CREATE TEMPORARY TABLE rows ON COMMIT DROP AS
  SELECT number, timestamptz '2026-01-01 00:00:00+00' - number * interval '5 minutes' AS at
  FROM generate_series(1, :rows) number;
INSERT INTO sessions
  (id, user_id, client_id, created_at, last_used_at, expires_at, persistent, secret_hash, check_at)
  SELECT md5(number::text)::uuid, (SELECT id FROM users), 'app', at, at, at + interval '90 days', true,
    sha256(number::text::bytea), at + interval '15 days' FROM rows;
INSERT INTO refresh_tokens (hash, session_id, created_at, used_at, check_at)
  SELECT sha256(number::text::bytea), md5(number::text)::uuid, at, at, at + interval '15 days' FROM rows;
INSERT INTO refresh_tokens (hash, session_id, created_at, check_at)
  SELECT sha256((-number)::text::bytea), md5(number::text)::uuid, at, at + interval '15 days' FROM rows;
UPDATE rows SET at = at + interval '15 days';
INSERT INTO throttles SELECT sha256(number::text::bytea), 1, at, at, at FROM rows;
INSERT INTO revocations SELECT number, 'token', number, at, at, '' FROM rows;
INSERT INTO used_assertions SELECT sha256(number::text::bytea), at FROM rows
"""

#: Tables of which nothing may be read but by an index.
LARGE = {"sessions", "refresh_tokens", "throttles", "revocations", "used_assertions"}

#: The session of the last row.
SESSION_ID = UUID("c4ca4238a0b923820dcc509a6f75849b")


@pytest.fixture
async def filled(services: Services) -> Services:
    async with services.store.write() as transaction:
        await transaction.users.add(new_user(at=NOW))
        for statement in FILL.split(";"):
            await transaction.users._connection.execute(text(statement.replace(":rows", str(ROWS))))
    return services


class Work:
    """What a transaction has done with the tables so far."""

    def __init__(self, transaction: AuthTransaction) -> None:
        self._connection = transaction.users._connection
        # Also counted is what earlier transactions on the connection did and have not reported yet.
        self._before: dict[str, dict[str, int]] = {}

    async def counts(self) -> dict[str, dict[str, int]]:
        query = text("SELECT * FROM pg_stat_xact_user_tables")
        return {row["relname"]: dict(row) for row in (await self._connection.execute(query)).mappings()}

    async def begin(self) -> None:
        # These tables are small enough to be read as a whole. What matters is whether there is another way.
        await self._connection.execute(text("SET LOCAL enable_seqscan = off"))
        self._before = await self.counts()

    async def done(self, *columns: str) -> dict[str, int]:
        """Return how often, for each table in which it was at all; the columns are of the view."""
        counts = await self.counts()
        totals = {
            table: sum(row[column] - self._before[table][column] for column in columns) for table, row in counts.items()
        }
        return {table: total for table, total in totals.items() if total}

    async def read_as_a_whole(self) -> set[str]:
        return LARGE & set(await self.done("seq_scan"))


@asynccontextmanager
async def observed(services: Services) -> AsyncIterator[tuple[AuthTransaction, Work]]:
    async with services.store.write() as transaction:
        work = Work(transaction)
        await work.begin()
        yield transaction, work


async def value(services: Services, query: str) -> Any:
    async with services.database.read() as connection:
        return (await connection.execute(text(query), {"session_id": SESSION_ID})).scalar_one()


async def test_pruning_reads_what_it_deletes_and_no_more(filled: Services) -> None:
    looked_at, batch = 0, PRUNE_BATCH
    while batch == PRUNE_BATCH:
        async with observed(filled) as (transaction, work):
            batch = await transaction.prune(NOW, idle=IDLE, limit=PRUNE_BATCH)
            assert await work.read_as_a_whole() == set()
            # Each row is found, locked and deleted, or found by a cascade.
            assert sum((await work.done("idx_tup_fetch")).values()) <= 4 * batch
        looked_at += batch
    assert looked_at == 6 * OVER


async def test_deleting_what_a_user_leaves_reads_no_more_either(filled: Services) -> None:
    user_id = await value(filled, "SELECT id FROM users")
    async with observed(filled) as (transaction, work):
        assert await transaction.sessions.remove_some(user_id, 250) == 250
        assert await work.read_as_a_whole() == set()


async def test_a_use_changes_no_index(filled: Services) -> None:
    token = await value(filled, "SELECT hash FROM refresh_tokens WHERE session_id = :session_id AND used_at IS NULL")
    secret_hash = await value(filled, "SELECT secret_hash FROM sessions WHERE id = :session_id")
    keys = attempts.login_keys("ada@example.com", "192.0.2.1", None)
    verifier = RegisteredVerifier("gateway", "a", 1, "keys", 1000, NOW)
    async with filled.store.write() as transaction:
        await throttle.count_attempt(transaction, keys, NOW)
        await transaction.verifiers.put([verifier])
    async with observed(filled) as (transaction, work):
        assert await transaction.sessions.lock_chain(token)
        made = RefreshToken(b"new", SESSION_ID, NOW)
        await transaction.sessions.rotate(token, b"nonce", made, next_rotation_at=NOW + DAY, ends_at=NOW + IDLE)
        assert await transaction.sessions.use([SessionProof(SESSION_ID, secret_hash)], IDLE, NOW + DAY)
        await throttle.count_attempt(transaction, keys, NOW)
        await transaction.verifiers.update([verifier])
        assert await work.read_as_a_whole() == set()
        changed = {"sessions": 2, "refresh_tokens": 1, "throttles": 2 * len(keys), "verifiers": 1}
        assert await work.done("n_tup_upd") == await work.done("n_tup_hot_upd") == changed


async def test_logins_and_logouts_find_sessions_by_an_index(filled: Services) -> None:
    user_id = await value(filled, "SELECT id FROM users")
    async with observed(filled) as (transaction, work):
        assert await transaction.sessions.count_not_ended(user_id, NOW) == ROWS
        (session,) = await transaction.sessions.lock([SESSION_ID])
        await transaction.sessions.end([SessionEnd(session, "logout", Context(NOW))])
        assert await work.read_as_a_whole() == set()


async def test_where_the_audit_log_was_verified_is_found_by_an_index(filled: Services) -> None:
    async with filled.store.write() as transaction:
        for event in (Event.AUDIT_LOG_VERIFIED, Event.AUDIT_LOG_TRIMMED, Event.LOGIN_SUCCEEDED):
            await filled.audit.record(transaction, Context(NOW), event)
    async with observed(filled) as (transaction, work):
        for event in (Event.AUDIT_LOG_VERIFIED, Event.AUDIT_LOG_TRIMMED):
            assert [entry.event for entry in await transaction.audit.checkpoints(event)] == [event]
        assert "audit_log" not in await work.done("seq_scan")
        # The primary key is another way to all of them.
        assert (await work.done("idx_tup_fetch"))["audit_log"] <= 3
