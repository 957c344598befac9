import asyncio

import argon2
import pytest

from ostiary_auth.domain.accounts import password_hashing
from ostiary_auth.domain.accounts.password_hashing import PasswordHasher


async def test_hashes_have_the_parameters_of_owasp() -> None:
    hashed = await PasswordHasher(threads=1).hash("a password")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_nobodys_hash_takes_as_long_as_any() -> None:
    assert not PasswordHasher(threads=1).needs_rehash(password_hashing._DUMMY_HASH)


async def test_the_event_loop_goes_on_while_hashing() -> None:
    hasher = PasswordHasher(threads=1)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.create_task(count_turns())
    await hasher.hash("a password")
    counter.cancel()
    assert turns > 10


async def test_without_an_account_no_password_fits() -> None:
    hasher = PasswordHasher(threads=1)
    assert not await hasher.verify(None, "")


async def test_an_older_hash_still_fits_and_is_known_to_be_old() -> None:
    hasher = PasswordHasher(threads=1)
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a password")
    assert await hasher.verify(old, "a password")
    assert hasher.needs_rehash(old)
    assert not hasher.needs_rehash(await hasher.hash("a password"))


@pytest.mark.parametrize("broken", ["", "plain", "$argon2id$v=19$m=19456"])
async def test_a_broken_hash_fits_nothing(broken: str) -> None:
    assert not await PasswordHasher(threads=1).verify(broken, "plain")
