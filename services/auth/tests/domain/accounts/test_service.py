from datetime import UTC, datetime

import pytest
from users import PASSWORD

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.accounts.service import Accounts
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import EmailTaken, InvalidCredentials, InvalidEmail, UnacceptablePassword
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def accounts(services: Services) -> Accounts:
    return services.accounts


async def register(accounts: Accounts, email: str = "ada@example.com", password: str = PASSWORD) -> User:
    return await accounts.register(email, password, "Ada", Context(NOW))


async def log_in(accounts: Accounts, email: str, password: str) -> User:
    login = await accounts.log_in(email, password, None, FIRST_PARTY_CLIENT_ID, Context(NOW))
    return login.grant.user


async def test_who_registered_is_recognised(accounts: Accounts) -> None:
    user = await register(accounts)
    assert await log_in(accounts, "ada@example.com", PASSWORD) == user
    assert user.scopes == ("profile:read", "profile:write")


@pytest.mark.parametrize("email", ["ADA@example.com", "ada@EXAMPLE.com", "\uff41da@example.com"])
async def test_two_spellings_of_an_address_are_one_account(accounts: Accounts, email: str) -> None:
    user = await register(accounts)
    with pytest.raises(EmailTaken):
        await register(accounts, email)
    assert (await log_in(accounts, email, PASSWORD)).id == user.id


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD + " ", PASSWORD.upper(), PASSWORD[:-1]])
async def test_a_wrong_password_is_refused(accounts: Accounts, password: str) -> None:
    await register(accounts)
    with pytest.raises(InvalidCredentials):
        await log_in(accounts, "ada@example.com", password)


@pytest.mark.parametrize("email", ["nobody@example.com", "no address", "", "x" * 400])
async def test_an_unknown_address_is_refused_in_the_same_way(accounts: Accounts, email: str) -> None:
    with pytest.raises(InvalidCredentials):
        await log_in(accounts, email, PASSWORD)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "a b@example.com",
        "ada@localhost",
        "ada@ex_ample.com",
        "\ufdfa" * 40 + "@example.com",
        "a\uff20b@example.com",
    ],
)
async def test_what_mail_cannot_reach_is_no_address(accounts: Accounts, email: str) -> None:
    with pytest.raises(InvalidEmail):
        await register(accounts, email)


@pytest.mark.parametrize("length", [8, 64, 256])
async def test_a_password_counts_in_its_whole_length(accounts: Accounts, length: int) -> None:
    user = await register(accounts, password="é" * length)
    with pytest.raises(InvalidCredentials):
        await log_in(accounts, "ada@example.com", "é" * (length - 1))
    assert await log_in(accounts, "ada@example.com", "é" * length) == user


@pytest.mark.parametrize("length", [0, 7, 257])
async def test_a_password_has_a_length(accounts: Accounts, length: int) -> None:
    with pytest.raises(UnacceptablePassword):
        await register(accounts, password="é" * length)


async def test_one_password_typed_on_two_keyboards_is_the_same(accounts: Accounts) -> None:
    user = await register(accounts, password="cafe\u0301 au lait")
    assert await log_in(accounts, "ada@example.com", "caf\u00e9 au lait") == user
