"""A deletion takes effect at once, and what it leaves is removed whatever happens meanwhile."""

import asyncio
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from faults import failing
from sqlalchemy import Table, select
from sqlalchemy.exc import OperationalError
from users import EMAIL, PASSWORD

from ostiary_auth.background import Background
from ostiary_auth.domain.accounts import erasure
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import OPERATOR, Context
from ostiary_auth.domain.errors import InvalidCredentials, UserNotFound
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.audit.tables import audit_log
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = "203.0.113.9"
CONTEXT = Context(NOW, source=ADDRESS, user_agent="AdasBrowser/1.0")
LOGINS = 3


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove two rows at once, and four in all before a deletion is answered."""
    monkeypatch.setattr(erasure, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(erasure, "ENTRIES_FOUND_AT_ONCE", 3)
    monkeypatch.setattr(erasure, "TRANSACTIONS_WAITED_FOR", 2)
    monkeypatch.setattr(erasure, "PAUSE_SECONDS", 0)


async def log_in(services: Services) -> str:
    login = await services.accounts.log_in(EMAIL, PASSWORD, None, FIRST_PARTY_CLIENT_ID, CONTEXT)
    return login.grant.refresh_token


@pytest.fixture
async def user(services: Services) -> User:
    """Somebody who has logged in and refreshed."""
    user = await services.accounts.register(EMAIL, PASSWORD, "Augusta Ada", CONTEXT)
    for _ in range(LOGINS):
        token = await log_in(services)
        await services.sessions.refresh(token, FIRST_PARTY_CLIENT_ID, CONTEXT)
    return user


async def rows(services: Services, table: Table) -> list[str]:
    async with services.database.read() as connection:
        found = await connection.execute(select(table))
        return [json.dumps(dict(row._mapping), default=str) for row in found]


async def left(services: Services) -> int:
    """Return how many rows have something of the user."""
    about = [row for row in await rows(services, audit_log) if ADDRESS in row or "AdasBrowser" in row]
    return sum([len(await rows(services, table)) for table in (users, sessions, refresh_tokens)]) + len(about)


async def test_at_once_nobody_finds_them_though_rows_are_left(services: Services, user: User) -> None:
    before = await left(services)
    await services.accounts.delete(user.id, Context(NOW, OPERATOR))
    assert 1 < await left(services) < before
    for table in (users, audit_log):
        for value in (EMAIL, "Ada", "argon2"):
            assert not [row for row in await rows(services, table) if value in row and ADDRESS not in row]
    with pytest.raises(UserNotFound):
        await services.accounts.get(user.id)
    with pytest.raises(UserNotFound):
        await services.accounts.find(EMAIL)
    with pytest.raises(UserNotFound):
        await services.accounts.delete(user.id, Context(NOW, OPERATOR))
    with pytest.raises(InvalidCredentials):
        await log_in(services)
    assert await services.accounts.page(None, 10) == []


async def test_the_address_is_free_at_once(services: Services, user: User) -> None:
    await services.accounts.delete(user.id, Context(NOW, OPERATOR))
    other = await services.accounts.register(EMAIL, PASSWORD, None, Context(NOW))
    token = await log_in(services)
    await Background(services).erase()
    assert await services.accounts.get(other.id) == other
    assert (await services.sessions.refresh(token, FIRST_PARTY_CLIENT_ID, CONTEXT)).user == other


async def test_the_background_removes_the_rest(services: Services, user: User) -> None:
    await services.accounts.delete(user.id, Context(NOW, OPERATOR))
    await Background(services).erase()
    assert await left(services) == 0
    assert (await services.audit.verify(services.store)).broken_at is None


async def test_it_goes_on_wherever_it_was_interrupted(services: Services, user: User) -> None:
    await services.accounts.delete(user.id, Context(NOW, OPERATOR))
    interrupted = 0
    for number in range(100):
        before = await left(services)
        try:
            with failing(services, number):
                await Background(services).erase()
        except OperationalError:
            interrupted += 1
            assert await left(services) <= before
        else:
            break
    assert interrupted > 3
    assert await left(services) == 0


async def test_a_failure_with_one_user_keeps_no_other(
    services: Services, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [await services.accounts.register(f"{number}@example.com", PASSWORD, None, CONTEXT) for number in range(2)]
    for each in (user, *others):
        async with services.store.write() as transaction:
            await transaction.users.mark_deleted(each.id, NOW)
    erase, begun = erasure.Erasure._erase, []

    async def fail_first(self: erasure.Erasure, user_id: UUID, transactions: int | None = None) -> None:
        begun.append(user_id)
        if len(begun) == 1:
            raise RuntimeError
        await erase(self, user_id, transactions)

    monkeypatch.setattr(erasure.Erasure, "_erase", fail_first)
    with pytest.raises(RuntimeError):
        await Background(services).erase()
    async with services.store.read() as transaction:
        assert await transaction.users.deleted(10) == begun[:1]


async def test_a_deletion_is_answered_though_the_removal_fails(services: Services, user: User) -> None:
    """The transaction of the deletion itself is complete, or nothing has happened."""
    for number in range(100):
        try:
            with failing(services, number):
                await services.accounts.delete(user.id, Context(NOW, OPERATOR))
        except OperationalError:
            assert await services.accounts.get(user.id) == user
        else:
            break
    with pytest.raises(UserNotFound):
        await services.accounts.get(user.id)
    await Background(services).erase()
    assert await left(services) == 0


async def test_sessions_that_another_replica_has_locked_are_left(services: Services, user: User) -> None:
    """Deleting the user would delete them in one statement, however many refresh tokens they have."""
    await services.accounts.delete(user.id, Context(NOW, OPERATOR))
    if services.database.is_sqlite:
        pytest.skip("SQLite locks no rows")
    tokens = len(await rows(services, refresh_tokens))
    async with services.database.write() as connection:
        await connection.execute(select(sessions).with_for_update())
        await asyncio.wait_for(Background(services).erase(), timeout=3)
    assert len(await rows(services, refresh_tokens)) == tokens > 0
    await Background(services).erase()
    assert await left(services) == 0
