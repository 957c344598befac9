"""Counting attempts, over logins and password changes."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from throttling import ELSEWHERE, HOME, SECOND
from users import EMAIL, PASSWORD

from ostiary_auth.domain.accounts.attempts import (
    ACCOUNT,
    FORGOTTEN_AFTER,
    SOURCE,
    SOURCE_AND_ACCOUNT,
    Allowance,
    Keys,
    login_keys,
)
from ostiary_auth.domain.accounts.device_tokens import DeviceTokens
from ostiary_auth.domain.accounts.model import AccountRules, User
from ostiary_auth.domain.accounts.password_hashing import PasswordHasher
from ostiary_auth.domain.accounts.service import Accounts, Login
from ostiary_auth.domain.accounts.throttle import count_attempt
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import AuthError, InvalidCredentials, TooManyAttempts, WrongPassword
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.services import Services, ServiceSecrets

NOW = datetime(2026, 1, 1, tzinfo=UTC)


#: What a stored hash looks like; the hasher below does not read it.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$Qdih/xkqpN4lvFnkR+JgdQ$4U1g21nFCwUhguu0ifp+bYuePr2N8AtY8els6o5gXz8"


class QuickHasher(PasswordHasher):
    """Knows one password, and takes no time."""

    def __init__(self) -> None:
        super().__init__(threads=8)

    async def hash(self, password: str) -> str:
        assert password
        return HASH

    async def verify(self, hashed: str | None, password: str) -> bool:
        await asyncio.sleep(0)
        return hashed is not None and password == PASSWORD


class Logins:
    """Logins at times and from places of choice."""

    def __init__(self, services: Services, own: ServiceSecrets) -> None:
        self.store = services.store
        self.accounts = Accounts(
            services.store,
            services.audit,
            services.revocations,
            services.sessions,
            hasher=QuickHasher(),
            devices=DeviceTokens(own.device_key),
            rules=AccountRules(8),
        )

    async def register(self, email: str = EMAIL) -> User:
        return await self.accounts.register(email, PASSWORD, None, Context(NOW))

    async def log_in(
        self, source: str = HOME, now: datetime = NOW, device: str | None = None, email: str = EMAIL
    ) -> Login[Grant]:
        context = Context(now, source=source)
        return await self.accounts.log_in(email, PASSWORD, device, FIRST_PARTY_CLIENT_ID, context)

    async def guess(
        self, source: str = HOME, now: datetime = NOW, device: str | None = None, email: str = EMAIL
    ) -> int | None:
        """Try a wrong password; return the wait in seconds if it was not even looked at."""
        context = Context(now, source=source)
        try:
            await self.accounts.log_in(email, "a wrong guess", device, FIRST_PARTY_CLIENT_ID, context)
        except TooManyAttempts as error:
            return error.retry_after
        except InvalidCredentials:
            return None
        raise AssertionError("a wrong password was accepted")

    async def count(self, keys: Keys, now: datetime = NOW) -> bool:
        """Count an attempt without making it; return False if it is refused."""
        try:
            async with self.store.write() as transaction:
                await count_attempt(transaction, keys, now)
        except TooManyAttempts:
            return False
        return True

    async def hammer(self, sources: Sequence[str], now: datetime = NOW, email: str = EMAIL) -> list[bool]:
        """Count attempts from many sources, in one transaction; return which of them were let through."""
        outcomes = []
        async with self.store.write() as transaction:
            for source in sources:
                try:
                    await count_attempt(transaction, login_keys(email, source, None), now)
                except TooManyAttempts:
                    outcomes.append(False)
                else:
                    outcomes.append(True)
        return outcomes

    async def attempts(self, allowance: Allowance, source: str = HOME, email: str = EMAIL) -> int:
        """Return what a counter of a stranger's stands at."""
        (key,) = (key for key, each in login_keys(email, source, None).items() if each is allowance)
        async with self.store.write() as transaction:
            counters = await transaction.throttles.lock([key], NOW)
        return counters[key].attempts


@pytest.fixture
def logins(services: Services, own: ServiceSecrets) -> Logins:
    return Logins(services, own)


class TestWaiting:
    async def test_some_guesses_are_free_and_then_each_waits_longer(self, logins: Logins) -> None:
        await logins.register()
        now = NOW
        for _ in range(SOURCE_AND_ACCOUNT.free):
            assert await logins.guess(now=now) is None
        waits = []
        for _ in range(11):
            assert await logins.guess(now=now) is None
            wait = await logins.guess(now=now)
            assert wait is not None
            waits.append(wait)
            now += wait * SECOND
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    async def test_what_is_refused_is_not_counted(self, logins: Logins) -> None:
        await logins.register()
        for _ in range(6):
            assert await logins.guess() is None
        assert [await logins.guess() for _ in range(20)] == [1] * 20
        assert await logins.attempts(SOURCE_AND_ACCOUNT) == await logins.attempts(ACCOUNT) == 6
        assert await logins.guess(now=NOW + SECOND) is None
        assert await logins.guess(now=NOW + SECOND) == 2

    async def test_within_the_wait_the_right_password_is_refused_as_well(self, logins: Logins) -> None:
        await logins.register()
        for _ in range(6):
            await logins.guess()
        with pytest.raises(TooManyAttempts):
            await logins.log_in()
        assert (await logins.log_in(now=NOW + SECOND)).grant.refresh_token

    async def test_the_counters_are_forgotten(self, logins: Logins) -> None:
        await logins.register()
        for _ in range(6):
            await logins.guess()
        later = NOW + FORGOTTEN_AFTER
        assert [await logins.guess(now=later) for _ in range(7)] == [None] * 6 + [1]

    async def test_a_counter_lives_as_long_as_there_are_attempts(self, logins: Logins) -> None:
        await logins.register()
        almost = FORGOTTEN_AFTER - SECOND
        for number in range(6):
            assert await logins.guess(now=NOW + number * almost) is None
        assert await logins.guess(now=NOW + 5 * almost) == 1

    async def test_an_unknown_account_is_throttled_like_one_that_is_there(self, logins: Logins) -> None:
        user = await logins.register()
        await logins.register("off@example.com")
        await logins.accounts.disable((await logins.accounts.find("off@example.com")).id, Context(NOW))
        times = [NOW] * 8 + [NOW + 2 * SECOND] * 3 + [NOW + 10 * SECOND] * 2 + [NOW + timedelta(hours=2)] * 8
        outcomes = {
            email: [await logins.guess(source, now, email=email) for now in times]
            for source, email in [
                ("192.0.2.1", user.email),
                ("192.0.2.2", "nobody@example.com"),
                ("192.0.2.3", "no address"),
                ("192.0.2.4", "off@example.com"),
            ]
        }
        first = outcomes.pop(user.email)
        assert set(first) > {None, 1}
        assert all(each == first for each in outcomes.values())

    async def test_all_spellings_of_an_address_count_together(self, logins: Logins) -> None:
        await logins.register()
        for email in (
            EMAIL,
            "ADA@example.com",
            "ada@EXAMPLE.com",
            "\uff41da@example.com",
            "\u0430da@example.com",
            EMAIL,
        ):
            assert await logins.guess(email=email) is None
        assert await logins.guess(email="Ada@example.com") == 1

    async def test_fifty_guesses_at_once_are_counted_or_refused(self, logins: Logins) -> None:
        await logins.register()
        outcomes = await asyncio.gather(*(logins.guess() for _ in range(50)))
        tried = outcomes.count(None)
        assert tried >= 6
        assert await logins.attempts(SOURCE_AND_ACCOUNT) == tried
        assert await logins.attempts(SOURCE) == tried
        assert await logins.attempts(ACCOUNT) == tried
        assert await logins.guess() is not None

    async def test_guesses_at_once_from_many_sources_are_all_counted(self, logins: Logins) -> None:
        await logins.register()
        outcomes = await asyncio.gather(*(logins.guess(f"192.0.2.{number}") for number in range(50)))
        assert outcomes == [None] * 50
        assert await logins.attempts(ACCOUNT) == 50

    async def test_guesses_at_once_from_a_few_sources_are_not_in_each_others_way(self, logins: Logins) -> None:
        for number in range(5):
            email = f"victim-{number}@example.com"
            keys = [login_keys(email, f"192.0.2.{guess % 3}", None) for guess in range(14)]
            outcomes = await asyncio.gather(*map(logins.count, keys), return_exceptions=True)
            assert set(outcomes) <= {True, False}
            assert await logins.attempts(ACCOUNT, email=email) == outcomes.count(True)


class TestSuccess:
    async def test_a_login_starts_the_count_anew(self, logins: Logins) -> None:
        await logins.register()
        for _ in range(5):
            await logins.guess()
        await logins.log_in()
        assert await logins.attempts(SOURCE_AND_ACCOUNT) == await logins.attempts(ACCOUNT) == 0
        assert [await logins.guess() for _ in range(7)] == [None] * 6 + [1]

    async def test_a_login_to_an_own_account_does_not_clear_what_the_source_did(self, logins: Logins) -> None:
        await logins.register("eve@example.com")
        for number in range(60):
            assert await logins.count(login_keys(f"victim-{number}@example.com", HOME, None))
        for _ in range(3):
            await logins.log_in(email="eve@example.com")
        assert await logins.attempts(SOURCE) == 60
        for number in range(60, 101):
            assert await logins.count(login_keys(f"victim-{number}@example.com", HOME, None))
        assert not await logins.count(login_keys("one-more@example.com", HOME, None))
        assert await logins.count(login_keys("one-more@example.com", ELSEWHERE, None))

    async def test_a_login_to_an_own_account_does_not_clear_anothers_count(self, logins: Logins) -> None:
        await logins.register()
        await logins.register("eve@example.com")
        for _ in range(6):
            await logins.guess()
        await logins.log_in(email="eve@example.com")
        assert await logins.guess() == 1

    async def test_a_disabled_accounts_right_password_clears_nothing(self, logins: Logins) -> None:
        user = await logins.register()
        await logins.accounts.disable(user.id, Context(NOW))
        for _ in range(6):
            with pytest.raises(InvalidCredentials):
                await logins.log_in()
        assert await logins.attempts(SOURCE_AND_ACCOUNT) == 6
        with pytest.raises(TooManyAttempts):
            await logins.log_in()


class TestDevices:
    @pytest.fixture
    async def device(self, logins: Logins) -> str:
        """The mark of a device that Ada has logged in with."""
        await logins.register()
        token = (await logins.log_in()).device_token
        assert token is not None
        return token

    async def test_a_known_device_keeps_its_mark(self, logins: Logins, device: str) -> None:
        assert (await logins.log_in(device=device)).device_token is None

    async def test_the_owner_gets_in_while_somebody_hammers_from_the_same_source(
        self, logins: Logins, device: str
    ) -> None:
        outcomes = await logins.hammer([HOME] * 20)
        assert outcomes == [True] * 6 + [False] * 14
        with pytest.raises(TooManyAttempts):
            await logins.log_in()
        for _ in range(3):
            assert (await logins.log_in(device=device)).grant.user.email == EMAIL
        # Nor does the owner's login let the other one go on.
        assert await logins.guess() == 1

    async def test_the_owner_gets_in_while_somebody_hammers_from_everywhere(self, logins: Logins, device: str) -> None:
        outcomes = await logins.hammer([f"198.51.100.{number}" for number in range(200)])
        assert outcomes == [True] * 101 + [False] * 99
        with pytest.raises(TooManyAttempts):
            await logins.log_in(source="203.0.113.1")
        with pytest.raises(TooManyAttempts):
            await logins.log_in(source=HOME)
        for source in (HOME, "203.0.113.1", "198.51.100.7"):
            assert (await logins.log_in(source=source, device=device)).grant.user.email == EMAIL

    async def test_a_mark_that_is_not_the_accounts_does_not_help(self, logins: Logins, device: str) -> None:
        await logins.register("eve@example.com")
        eves = (await logins.log_in("203.0.113.1", email="eve@example.com")).device_token
        assert eves is not None
        device_id, _, mac = device.partition(".")
        own_id, _, own_mac = eves.partition(".")
        await logins.hammer([HOME] * 6)
        for mark in (
            eves,
            f"{device_id}.{own_mac}",
            f"{own_id}.{mac}",
            device_id,
            f"{device}x",
            "",
            ".",
            "\u00e9.\u00e9",
        ):
            assert await logins.guess(device=mark) == 1
            with pytest.raises(TooManyAttempts):
                await logins.log_in(device=mark)

    async def test_a_stolen_mark_is_good_for_a_few_guesses(self, logins: Logins, device: str) -> None:
        second = (await logins.log_in(ELSEWHERE)).device_token
        outcomes = [await logins.guess(f"203.0.113.{number}", device=device) for number in range(15)]
        assert outcomes == [None] * 11 + [1] * 4
        with pytest.raises(TooManyAttempts):
            await logins.log_in(device=device)
        # Neither the owner's other devices nor strangers are held up by it.
        assert (await logins.log_in(device=second)).device_token is None
        assert (await logins.log_in("203.0.113.99")).device_token is not None

    async def test_a_stolen_mark_opens_nothing_and_helps_with_no_other_account(
        self, logins: Logins, device: str
    ) -> None:
        await logins.register("bob@example.com")
        await logins.hammer([HOME] * 6, email="bob@example.com")
        assert await logins.guess(device=device, email="bob@example.com") == 1
        assert await logins.guess(device=device) is None

    async def test_the_owner_may_mistype_and_then_get_it_right(self, logins: Logins, device: str) -> None:
        for _ in range(3):
            assert [await logins.guess(device=device) for _ in range(9)] == [None] * 9
            await logins.log_in(device=device)
        assert await logins.attempts(ACCOUNT) == await logins.attempts(SOURCE) == 0


class TestChangingThePassword:
    async def change(self, logins: Logins, user: User, current: str, now: datetime = NOW) -> type[AuthError] | None:
        try:
            await logins.accounts.change_password(
                user.id, uuid4(), current, "a whole new staple", Context(now, source=HOME)
            )
        except AuthError as error:
            return type(error)
        return None

    async def test_guessing_the_current_password_gets_slower(self, logins: Logins) -> None:
        user = await logins.register()
        outcomes = [await self.change(logins, user, "wrong") for _ in range(8)]
        assert outcomes == [WrongPassword] * 6 + [TooManyAttempts] * 2
        assert await self.change(logins, user, PASSWORD) is TooManyAttempts
        assert await self.change(logins, user, PASSWORD, NOW + SECOND) is None

    async def test_it_is_counted_for_the_user_and_not_for_logins(self, logins: Logins) -> None:
        user, other = await logins.register(), await logins.register("eve@example.com")
        for _ in range(7):
            await self.change(logins, user, "wrong")
        assert await self.change(logins, other, "wrong") is WrongPassword
        assert (await logins.log_in()).grant.user.id == user.id
        assert await self.change(logins, user, PASSWORD) is TooManyAttempts

    async def test_the_right_password_starts_the_count_anew(self, logins: Logins) -> None:
        user = await logins.register()
        for _ in range(3):
            assert [await self.change(logins, user, "wrong") for _ in range(5)] == [WrongPassword] * 5
            assert await self.change(logins, user, PASSWORD) is None


async def test_free_attempts_of_the_same_moment_do_not_wait_for_each_other(logins: Logins) -> None:
    """Requests reach the counters in another order than the clock was read in."""
    late, early = NOW + timedelta(milliseconds=1), NOW
    keys = login_keys(EMAIL, HOME, None)
    assert await logins.count(keys, late)
    assert await logins.count(keys, early)
