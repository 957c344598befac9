"""What is over is deleted, a batch at a time; what anything still depends on stays."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Table, func, insert, select, update
from users import new_user

from ostiary.feed import Kind
from ostiary_auth.background import PRUNE_BATCH, Background
from ostiary_auth.config import MAX_ACCESS_TOKEN_TTL
from ostiary_auth.domain.accounts import attempts, throttle
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidRefreshToken, TooManyAttempts
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.revocation.log import EXPIRY_MARGIN
from ostiary_auth.domain.sessions.model import Grant, SessionLimits
from ostiary_auth.domain.sessions.service import Sessions
from ostiary_auth.services import Services
from ostiary_auth.storage.accounts.tables import throttles, users
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.keys.tables import signing_keys
from ostiary_auth.storage.oauth.tables import clients, used_assertions
from ostiary_auth.storage.revocation.tables import revocations
from ostiary_auth.storage.sessions.sessions import SESSIONS_KEPT
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
LIMITS = SessionLimits(idle=timedelta(days=14), absolute=timedelta(days=90))


class Database:
    """A database in use, with one user."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.sessions = Sessions(services.store, services.audit, services.revocations, LIMITS, services.clock)
        self.user = new_user(at=NOW)

    async def open(self, now: datetime = NOW) -> Grant:
        async with self.store.write() as transaction:
            return await self.sessions.open(transaction, self.user, FIRST_PARTY_CLIENT_ID, Context(now))

    async def refresh(self, grant: Grant, now: datetime) -> Grant:
        return await self.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, Context(now))

    async def goes_on(self, grant: Grant, now: datetime) -> bool:
        try:
            return (await self.refresh(grant, now)).session.id == grant.session.id
        except InvalidRefreshToken:
            return False

    async def end(self, grant: Grant, now: datetime) -> None:
        assert len(await self.sessions.end(self.user.id, grant.session.id, "local", Context(now))) == 1

    async def add(self, table: Table, *rows: Mapping[str, Any]) -> None:
        async with self.store.database.write() as connection:
            await connection.execute(insert(table), list(rows))

    async def count(self, table: Table) -> int:
        async with self.store.database.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())

    async def prune(self, now: datetime, limit: int = 1000) -> int:
        async with self.store.write() as transaction:
            return await transaction.prune(now, idle=LIMITS.idle, limit=limit)


@pytest.fixture
async def database(services: Services) -> Database:
    database = Database(services)
    async with services.store.write() as transaction:
        await transaction.users.add(database.user)
    return database


def revocation(number: int, expires_at: datetime) -> dict[str, object]:
    return {
        "number": number,
        "kind": "token",
        "target": str(number),
        "at": NOW,
        "expires_at": expires_at,
        "digest": bytes(32),
    }


class TestSessions:
    async def test_a_session_in_use_stays(self, database: Database) -> None:
        grant = await database.open()
        for day in range(10, 90, 10):
            grant = await database.refresh(grant, NOW + day * DAY)
            await database.prune(NOW + day * DAY + SECOND)
        assert await database.count(sessions) == 1
        assert await database.goes_on(grant, NOW + LIMITS.absolute - SECOND)

    async def test_a_session_that_nobody_used_stays_for_its_idle_time(self, database: Database) -> None:
        grant = await database.open()
        assert await database.prune(NOW + LIMITS.idle - SECOND) == 0
        assert await database.goes_on(grant, NOW + LIMITS.idle - SECOND)

    async def test_a_session_that_ran_out_stays_a_day_more(self, database: Database) -> None:
        await database.open()
        assert await database.prune(NOW + LIMITS.idle + SESSIONS_KEPT) == 0
        assert await database.prune(NOW + LIMITS.idle + SESSIONS_KEPT + SECOND) == 2
        assert await database.count(sessions) == await database.count(refresh_tokens) == 0

    async def test_a_session_that_was_ended_stays_a_day_more(self, database: Database) -> None:
        await database.end(await database.open(), NOW)
        await database.prune(NOW + SESSIONS_KEPT)
        assert await database.count(sessions) == 1
        await database.prune(NOW + SESSIONS_KEPT + SECOND)
        assert await database.count(sessions) == 0

    async def test_a_session_past_its_absolute_limit_goes_however_busy_it_was(self, database: Database) -> None:
        grant = await database.open()
        for day in range(10, 90, 10):
            grant = await database.refresh(grant, NOW + day * DAY)
        await database.prune(NOW + LIMITS.absolute + SESSIONS_KEPT + SECOND)
        assert await database.count(sessions) == 0

    async def test_its_refresh_tokens_go_with_a_session_and_the_user_stays(self, database: Database) -> None:
        gone = await database.open()
        await database.end(await database.refresh(gone, NOW), NOW)
        kept = await database.open(NOW + DAY)
        await database.prune(NOW + SESSIONS_KEPT + SECOND)
        assert await database.count(refresh_tokens) == 1
        assert await database.count(users) == 1
        assert await database.goes_on(kept, NOW + 2 * DAY)


class TestRefreshTokens:
    async def test_a_used_token_still_gives_a_thief_away(self, database: Database) -> None:
        stolen = await database.open()
        following = await database.refresh(stolen, NOW)
        later = NOW + LIMITS.idle
        assert await database.prune(later) == 0
        assert not await database.goes_on(stolen, NOW + LIMITS.idle - SECOND)
        assert not await database.goes_on(following, NOW + LIMITS.idle - SECOND)

    async def test_an_answer_is_given_again_after_a_pruning(self, database: Database) -> None:
        grant = await database.open()
        following = await database.refresh(grant, NOW + 13 * DAY)
        await database.prune(NOW + 13 * DAY + SECOND)
        again = await database.refresh(grant, NOW + 13 * DAY + 2 * SECOND)
        assert again.refresh_token == following.refresh_token

    async def test_a_token_that_was_used_long_ago_goes_and_the_chain_goes_on(self, database: Database) -> None:
        first = await database.open()
        grant = await database.refresh(first, NOW)
        grant = await database.refresh(grant, NOW + 10 * DAY)
        later = NOW + LIMITS.idle + SESSIONS_KEPT
        await database.prune(later)
        assert await database.count(refresh_tokens) == 3
        await database.prune(later + SECOND)
        assert await database.count(refresh_tokens) == 2
        assert not await database.goes_on(first, later)
        assert await database.goes_on(grant, later)

    async def test_a_token_that_was_used_late_goes_later(self, database: Database) -> None:
        grant = await database.refresh(await database.open(), NOW + 13 * DAY)
        await database.refresh(grant, NOW + 20 * DAY)
        for day, left in ((16, 3), (27, 2), (28, 2), (33, 2), (34, 1)):
            await database.prune(NOW + day * DAY + SECOND)
            assert await database.count(refresh_tokens) == left, day


async def test_rows_of_a_release_that_says_nothing_are_looked_at_at_once(database: Database) -> None:
    over, kept = await database.open(NOW - 20 * DAY), await database.open()
    async with database.store.database.write() as connection:
        for table in (sessions, refresh_tokens):
            await connection.execute(update(table).values(check_at=datetime(1970, 1, 1, tzinfo=UTC)))
    assert await database.prune(NOW + SECOND) == 4
    assert await database.prune(NOW + SECOND) == 0
    assert await database.count(sessions) == await database.count(refresh_tokens) == 1
    assert not await database.goes_on(over, NOW + SECOND)
    assert await database.goes_on(kept, NOW + SECOND)


class TestRevocations:
    async def test_a_revocation_stays_as_long_as_a_token_that_it_hits(self, database: Database) -> None:
        # Whatever the setting is now: it may have been more.
        log, lifetime = database.services.revocations, timedelta(seconds=MAX_ACCESS_TOKEN_TTL)
        async with database.store.write() as transaction:
            await log.revoke(transaction, Context(NOW), Kind.SUBJECT, "ada")
        last_hit = NOW + lifetime + EXPIRY_MARGIN
        assert await database.prune(last_hit) == 0
        assert await database.prune(last_hit + SECOND) == 1
        assert await database.count(revocations) == 0

    async def test_those_that_matter_stay_when_others_go(self, database: Database) -> None:
        rows = [revocation(number, NOW + number * SECOND) for number in range(6)]
        await database.add(revocations, *rows)
        assert await database.prune(NOW + 3 * SECOND) == 3
        async with database.store.database.read() as connection:
            left = (await connection.execute(select(revocations.c.number).order_by(revocations.c.number))).scalars()
            assert list(left) == [3, 4, 5]


class TestThrottles:
    async def test_a_wait_does_not_end_by_pruning(self, database: Database) -> None:
        keys = attempts.reauthentication_keys(database.user.id)

        async def attempt(now: datetime) -> None:
            async with database.store.write() as transaction:
                await throttle.count_attempt(transaction, keys, now)

        for _ in range(attempts.REAUTHENTICATION.free + 1):
            await attempt(NOW)
        assert await database.prune(NOW + attempts.FORGOTTEN_AFTER) == 0
        with pytest.raises(TooManyAttempts):
            await attempt(NOW)
        assert await database.prune(NOW + attempts.FORGOTTEN_AFTER + SECOND) == 1
        assert await database.count(throttles) == 0


class TestAssertions:
    async def test_a_used_assertion_is_remembered_until_it_expires(self, database: Database) -> None:
        async with database.store.write() as transaction:
            assert await transaction.clients.use_assertion(b"used", NOW)
        assert await database.prune(NOW) == 0
        async with database.store.write() as transaction:
            assert not await transaction.clients.use_assertion(b"used", NOW)
        assert await database.prune(NOW + SECOND) == 1
        assert await database.count(used_assertions) == 0


class TestBatches:
    async def test_a_batch_has_a_limit(self, database: Database) -> None:
        await database.add(revocations, *(revocation(number, NOW) for number in range(5)))
        await database.add(used_assertions, *({"hash": bytes([number]), "expires_at": NOW} for number in range(3)))
        later = NOW + SECOND
        assert [await database.prune(later, limit=2) for _ in range(5)] == [2, 2, 2, 2, 0]

    async def test_a_long_chain_goes_before_its_session(self, database: Database) -> None:
        grant = await database.open()
        for step in range(5):
            grant = await database.refresh(grant, NOW + step * SECOND)
        await database.end(grant, NOW)
        later = NOW + DAY + 6 * SECOND
        removed = []
        while await database.count(sessions):
            removed.append(await database.prune(later, limit=2))
        # With the session goes the revocation of its tokens.
        assert removed == [2, 2, 2, 2]

    async def test_pruning_goes_on_until_nothing_is_left(self, database: Database) -> None:
        rows = 2 * PRUNE_BATCH + 1
        await database.add(revocations, *(revocation(number, NOW - DAY) for number in range(rows)))
        await Background(database.services).prune()
        assert await database.count(revocations) == 0

    async def test_what_is_not_over_by_itself_is_never_pruned(self, database: Database) -> None:
        kept = (users, signing_keys, clients, audit_log)
        before = [await database.count(table) for table in kept]
        await database.prune(NOW + timedelta(days=36500))
        assert [await database.count(table) for table in kept] == before


async def test_pruning_stands_in_nobodys_way(database: Database) -> None:
    late = NOW + LIMITS.idle + 2 * DAY
    for _ in range(5):
        await database.open(NOW)
    grants = [await database.open(late) for _ in range(5)]
    await database.add(revocations, *(revocation(number, NOW) for number in range(-50, 0)))

    async def go_on(grant: Grant) -> Grant:
        for step in range(1, 6):
            grant = await database.refresh(grant, late + step * SECOND)
        return grant

    async def end_one() -> None:
        await database.end(await database.open(late), late)

    async def prune() -> int:
        return sum([await database.prune(late, limit=5) for _ in range(8)])

    going_on = asyncio.gather(*map(go_on, grants))
    _, pruned, _ = await asyncio.gather(going_on, asyncio.gather(prune(), prune()), end_one())
    assert sum(pruned) == 60
    assert await database.count(sessions) == 6
    for grant in going_on.result():
        assert await database.goes_on(grant, late + DAY)
