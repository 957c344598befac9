"""An attempt that failed because of the database, or of the hashing, is not held against anybody."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from faults import DiskFull, failing
from sqlalchemy.exc import OperationalError
from throttling import HOME
from users import EMAIL, PASSWORD

from ostiary_auth.background import Background
from ostiary_auth.domain.accounts.attempts import Keys, login_keys, reauthentication_keys
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.accounts.refunds import MAX_COUNTERS, Refunds
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidCredentials
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = Context(NOW, source=HOME)
NEW_PASSWORD = "a whole new staple"

#: More statements than a login has.
MANY = 100


async def attempts(services: Services, keys: Keys) -> set[int]:
    async with services.store.write() as transaction:
        counters = await transaction.throttles.lock(sorted(keys), NOW)
    return {counter.attempts for counter in counters.values()}


async def fail_at_each_statement(services: Services, work: Callable[[], Awaitable[object]], keys: Keys) -> int:
    """Do something until it succeeds, each time with the next statement failing. Return how often it failed."""
    for number in range(MANY):
        try:
            with failing(services, number):
                await work()
        except OperationalError:
            await Background(services).pay_refunds()
            assert await attempts(services, keys) == {0}
        else:
            return number
    raise AssertionError("it never succeeds")


@pytest.fixture
async def user(services: Services) -> User:
    return await services.accounts.register(EMAIL, PASSWORD, None, CONTEXT)


async def log_in(services: Services, password: str = PASSWORD) -> object:
    return await services.accounts.log_in(EMAIL, password, None, FIRST_PARTY_CLIENT_ID, CONTEXT)


async def test_no_login_with_the_right_password_is_charged(services: Services, user: User) -> None:
    keys = login_keys(user.email_key, HOME, None)
    assert await fail_at_each_statement(services, lambda: log_in(services), keys) > 10


async def test_no_password_change_with_the_right_one_is_charged(services: Services, user: User) -> None:
    login = await services.accounts.log_in(EMAIL, PASSWORD, None, FIRST_PARTY_CLIENT_ID, CONTEXT)
    session_id = login.grant.session.id

    async def change() -> None:
        await services.accounts.change_password(user.id, session_id, PASSWORD, NEW_PASSWORD, CONTEXT)

    assert await fail_at_each_statement(services, change, reauthentication_keys(user.id)) > 5


async def test_many_failures_keep_nobody_waiting(services: Services, user: User) -> None:
    assert user.disabled_at is None
    for _ in range(20):
        # The first transaction counts, with some statements and its commit; the second one stores the session.
        with failing(services, 8), pytest.raises(OperationalError):
            await log_in(services)
    await log_in(services)


async def test_a_wrong_password_stays_charged(services: Services, user: User) -> None:
    keys = login_keys(user.email_key, HOME, None)
    with pytest.raises(InvalidCredentials):
        await log_in(services, "a wrong guess")
    with failing(services, 5), pytest.raises(OperationalError):
        await log_in(services, "a wrong guess")
    await Background(services).pay_refunds()
    assert await attempts(services, keys) == {2}


async def test_an_attempt_that_was_not_judged_is_not_charged(
    services: Services, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> bool:
        raise RuntimeError("no thread")

    with monkeypatch.context() as patch:
        patch.setattr(services.hasher, "verify", fail)
        with pytest.raises(RuntimeError):
            await log_in(services)
    await Background(services).pay_refunds()
    assert await attempts(services, login_keys(user.email_key, HOME, None)) == {0}


async def test_what_is_taken_back_while_the_database_fails_is_taken_back_later(services: Services, user: User) -> None:
    keys = login_keys(user.email_key, HOME, None)
    for _ in range(3):
        with failing(services, 8), pytest.raises(OperationalError):
            await log_in(services)
    with failing(services, 0), pytest.raises(OperationalError):
        await Background(services).pay_refunds()
    # Each attempt has taken back the one before it.
    assert await attempts(services, keys) == {1}
    await Background(services).pay_refunds()
    assert await attempts(services, keys) == {0}


async def test_others_attempts_meanwhile_stay_charged(services: Services, user: User) -> None:
    keys = login_keys(user.email_key, HOME, None)
    with failing(services, 8), pytest.raises(OperationalError):
        await log_in(services)
    with pytest.raises(InvalidCredentials):
        await log_in(services, "a wrong guess")
    assert await attempts(services, keys) == {1}


async def test_an_attempt_is_taken_back_once_however_many_try(services: Services, user: User) -> None:
    keys, refunds = login_keys(user.email_key, HOME, None), services.accounts.refunds
    for _ in range(3):
        with pytest.raises(InvalidCredentials):
            await log_in(services, "a wrong guess")
    with pytest.raises(DiskFull), refunds.unless_judged(keys):
        raise DiskFull

    async def pay() -> None:
        async with services.store.write() as transaction:
            await refunds.pay(transaction, keys, NOW)

    await asyncio.gather(*(pay() for _ in range(5)))
    assert await attempts(services, keys) == {2}


async def test_what_was_not_committed_is_still_to_be_taken_back(services: Services, user: User) -> None:
    keys, refunds = login_keys(user.email_key, HOME, None), services.accounts.refunds
    with pytest.raises(InvalidCredentials):
        await log_in(services, "a wrong guess")
    with pytest.raises(DiskFull), refunds.unless_judged(keys):
        raise DiskFull
    with suppress(DiskFull):
        async with services.store.write() as transaction:
            await refunds.pay(transaction, keys, NOW)
            raise DiskFull
    assert await attempts(services, keys) == {1}
    await Background(services).pay_refunds()
    assert await attempts(services, keys) == {0}


def test_what_is_remembered_has_a_bound() -> None:
    refunds = Refunds()
    for number in range(MAX_COUNTERS + 5):
        with pytest.raises(DiskFull), refunds.unless_judged([number.to_bytes(4, "big")]):
            raise DiskFull
    assert len(refunds._due) == MAX_COUNTERS
    assert (0).to_bytes(4, "big") not in refunds._due
