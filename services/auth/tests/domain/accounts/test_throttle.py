"""Throttles: guessing gets slower for strangers, never for the owner on a device of theirs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from fastapi import Request
from hypothesis import example, given
from hypothesis import strategies as st

from ostiary import LocalKeys, Verifier, VerifierConfig
from ostiary.fastapi import Auth
from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.attempts import (
    ACCOUNT,
    DEVICE,
    MEMORY,
    REAUTHENTICATION,
    SOURCE,
    SOURCE_ON_ACCOUNT,
    Allowance,
    Counter,
    Keys,
    login_keys,
    reauthentication_keys,
)
from ostiary_auth.domain.accounts.device_tokens import DeviceTokens
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.accounts.password_hashing import PasswordHasher
from ostiary_auth.domain.accounts.service import Accounts, Login
from ostiary_auth.domain.accounts.throttle import count_attempt
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import AuthError, InvalidCredentials, TooManyAttempts, WrongPassword
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.routes.dependencies import Requests
from ostiary_auth.services import OwnSecrets, Services
from ostiary_auth.storage.store import AuthStore
from ostiary_chassis.proxies import TrustedProxies

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
HOME = "192.0.2.7"
ELSEWHERE = "198.51.100.9"

#: What a stored hash looks like; the hasher below does not read it.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$Qdih/xkqpN4lvFnkR+JgdQ$4U1g21nFCwUhguu0ifp+bYuePr2N8AtY8els6o5gXz8"

ALLOWANCES = (DEVICE, SOURCE_ON_ACCOUNT, SOURCE, ACCOUNT, REAUTHENTICATION)


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

    def __init__(self, services: Services, own: OwnSecrets) -> None:
        self.store = services.store
        self.accounts = Accounts(
            services.store,
            services.audit,
            services.revocations,
            services.sessions,
            hasher=QuickHasher(),
            devices=DeviceTokens(own.device_key),
            min_password_characters=8,
        )

    async def register(self, email: str = EMAIL) -> User:
        return await self.accounts.register(email, PASSWORD, None, Context(NOW))

    async def log_in(
        self, source: str = HOME, now: datetime = NOW, device: str | None = None, email: str = EMAIL
    ) -> Login:
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
def logins(services: Services, own: OwnSecrets) -> Logins:
    return Logins(services, own)


class TestAllowance:
    @given(st.sampled_from(ALLOWANCES), st.integers(0, 10**12))
    @example(ACCOUNT, 10**100)
    def test_the_wait_never_shrinks_and_has_a_bound(self, allowance: Allowance, attempts: int) -> None:
        wait = allowance.wait(attempts)
        assert timedelta(0) <= wait <= allowance.longest_wait
        assert wait <= allowance.wait(attempts + 1)
        assert (wait == timedelta(0)) is (attempts <= allowance.free)

    @given(st.integers(0, 200), st.timedeltas(timedelta(seconds=1), timedelta(days=365)), st.integers(0, 300))
    def test_so_does_that_of_any_allowance(self, free: int, longest: timedelta, attempts: int) -> None:
        allowance = Allowance(free, longest)
        assert allowance.wait(attempts) <= allowance.wait(attempts + 1) <= longest
        assert allowance.wait(free + 1) == SECOND

    def test_the_wait_doubles(self) -> None:
        waits = [SOURCE_ON_ACCOUNT.wait(attempts).total_seconds() for attempts in range(4, 17)]
        assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    @pytest.mark.parametrize("allowance", ALLOWANCES)
    def test_no_wait_outlasts_the_memory_of_it(self, allowance: Allowance) -> None:
        assert allowance.longest_wait < MEMORY

    def test_an_account_bears_a_hundred_guesses_of_strangers(self) -> None:
        """NIST SP 800-63B-4 section 3.2.2."""
        assert ACCOUNT.free <= 100

    @pytest.mark.parametrize(
        ("wait", "seconds"), [(timedelta(microseconds=1), 1), (SECOND, 1), (1.001 * SECOND, 2), (300 * SECOND, 300)]
    )
    def test_retry_after_is_in_whole_seconds_and_enough(self, wait: timedelta, seconds: int) -> None:
        error = TooManyAttempts(wait)
        assert error.retry_after == seconds
        assert f"{seconds} s" in error.detail


class TestKeys:
    def test_what_is_stored_names_nobody(self) -> None:
        for keys in (login_keys(EMAIL, HOME, None), login_keys(EMAIL, HOME, "device"), reauthentication_keys(uuid4())):
            for key in keys:
                assert len(key) == 32
                assert EMAIL.encode() not in key

    def test_a_known_device_counts_for_itself_alone(self) -> None:
        assert list(login_keys(EMAIL, HOME, "device").values()) == [DEVICE]
        assert login_keys(EMAIL, HOME, "device").keys() == login_keys(EMAIL, ELSEWHERE, "device").keys()

    def test_a_stranger_counts_for_the_source_the_account_and_both(self) -> None:
        here, there = login_keys(EMAIL, HOME, None), login_keys(EMAIL, ELSEWHERE, None)
        other = login_keys("eve@example.com", HOME, None)
        assert [here[key] for key in here.keys() & there.keys()] == [ACCOUNT]
        assert [here[key] for key in here.keys() & other.keys()] == [SOURCE]
        assert not there.keys() & other.keys()


class TestWaiting:
    async def test_some_guesses_are_free_and_then_each_waits_longer(self, logins: Logins) -> None:
        await logins.register()
        now = NOW
        for _ in range(SOURCE_ON_ACCOUNT.free):
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
        assert await logins.attempts(SOURCE_ON_ACCOUNT) == await logins.attempts(ACCOUNT) == 6
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
        later = NOW + MEMORY
        assert [await logins.guess(now=later) for _ in range(7)] == [None] * 6 + [1]

    async def test_a_counter_lives_as_long_as_there_are_attempts(self, logins: Logins) -> None:
        await logins.register()
        almost = MEMORY - SECOND
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
        assert await logins.attempts(SOURCE_ON_ACCOUNT) == tried
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
        assert await logins.attempts(SOURCE_ON_ACCOUNT) == await logins.attempts(ACCOUNT) == 0
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
        assert await logins.attempts(SOURCE_ON_ACCOUNT) == 6
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


ADA = {"email": EMAIL, "password": PASSWORD}


async def block(services: Services, keys: Keys) -> None:
    now = datetime.now(UTC)
    async with services.store.write() as transaction:
        for key, allowance in keys.items():
            await transaction.throttles.lock([key], now)
            blocked = Counter(allowance.free + 1, now + timedelta(minutes=5), now + timedelta(hours=1))
            await transaction.throttles.put({key: blocked})


@asynccontextmanager
async def serving(config: AuthConfig, own: OwnSecrets, peer: str = HOME) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application with settings of its own, for callers at one address."""
    app = create_app(config, own)
    transport = httpx.ASGITransport(app, client=(peer, 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=config.issuer) as client,
    ):
        yield client


def bearer(response: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


class TestOverHttp:
    async def test_who_must_wait_is_told_how_long(self, client: httpx.AsyncClient, services: Services) -> None:
        await block(services, login_keys(EMAIL, HOME, None))
        response = await client.post("/auth/login", json=ADA)
        assert (response.status_code, response.json()["code"]) == (429, "too_many_attempts")
        assert 290 <= int(response.headers["Retry-After"]) <= 300
        assert "Set-Cookie" not in response.headers
        assert (await client.post("/auth/login", json={**ADA, "email": "bob@example.com"})).status_code == 429

    async def test_a_password_change_waits_as_well(self, client: httpx.AsyncClient, services: Services) -> None:
        user_id = (await client.post("/auth/register", json=ADA)).json()["id"]
        headers = bearer(await client.post("/auth/login", json=ADA))
        await block(services, reauthentication_keys(user_id))
        body = {"current_password": PASSWORD, "new_password": "a whole new staple"}
        response = await client.post("/auth/password", json=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (429, "too_many_attempts")
        assert 290 <= int(response.headers["Retry-After"]) <= 300

    @pytest.mark.parametrize(("issuer", "secure"), [("https://id.example.com", True), ("http://localhost:8080", False)])
    async def test_a_login_leaves_a_mark_that_only_logins_see(
        self, config: AuthConfig, own: OwnSecrets, services: Services, issuer: str, secure: bool
    ) -> None:
        async with serving(config.model_copy(update={"issuer": issuer}), own) as client:
            await client.post("/auth/register", json=ADA)
            response = await client.post("/auth/login", json=ADA)
            (cookie,) = response.headers.get_list("Set-Cookie")
            value, *attributes = cookie.split("; ")
            assert value.startswith("ostiary-device=")
            expected = {"HttpOnly", "SameSite=strict", "Path=/auth/login", f"Max-Age={365 * 24 * 3600}"}
            assert set(attributes) == expected | ({"Secure"} if secure else set())
            # With the mark, the owner gets in though strangers are held up; and need not be marked again.
            await block(services, login_keys(EMAIL, HOME, None))
            again = await client.post("/auth/login", json=ADA)
            assert again.status_code == 200
            assert "Set-Cookie" not in again.headers
            client.cookies.clear()
            assert (await client.post("/auth/login", json=ADA)).status_code == 429

    async def test_a_refused_login_leaves_no_mark(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/auth/login", json=ADA)
        assert response.status_code == 401
        assert "Set-Cookie" not in response.headers


class TestSource:
    """Where a request came from: a proxy is believed if we trust it, and nobody else."""

    def source(self, trusted: str, peer: str, *forwarded: str) -> str | None:
        verifier = Verifier(VerifierConfig(issuer="http://localhost:8080", audience="ostiary", key_source=LocalKeys()))
        networks = [ip_network(network) for network in trusted.split(",") if network]
        headers = [(b"x-forwarded-for", field.encode()) for field in forwarded]
        scope: dict[str, Any] = {"type": "http", "headers": headers, "client": (peer, 40000)}
        return (
            Requests(Auth(verifier), cast("AuthStore", None), TrustedProxies(networks)).context(Request(scope)).source
        )

    @pytest.mark.parametrize(
        ("trusted", "peer", "forwarded", "source"),
        [
            ("", "192.0.2.7", ["203.0.113.5"], "192.0.2.7"),
            ("10.0.0.0/8", "192.0.2.7", ["203.0.113.5"], "192.0.2.7"),
            ("10.0.0.0/8", "10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", [""], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["1.1.1.1", "203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["10.0.0.9, 203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5,10.0.0.2,\t10.0.0.3 "], "203.0.113.5"),
            ("10.0.0.0/8,192.0.2.0/24", "192.0.2.7", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, garbage, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, 10.0.0.2:80"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
            ("10.0.0.0/8", "10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5:"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5:http"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5,"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["x" * 5000], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["010.0.0.9"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, ::ffff:10.0.0.2"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["2001:DB8:0:0::5"], "2001:db8::5"),
            ("2001:db8::/32", "2001:db8::1", ["203.0.113.5"], "203.0.113.5"),
            ("::/0", "10.0.0.1", ["203.0.113.5"], "10.0.0.1"),
            ("10.0.0.0/8", "testclient", ["203.0.113.5"], None),
        ],
    )
    def test_it_is_the_last_address_that_is_not_a_trusted_proxys(
        self, trusted: str, peer: str, forwarded: list[str], source: str | None
    ) -> None:
        assert self.source(trusted, peer, *forwarded) == source

    def test_an_address_fits_where_it_is_stored(self) -> None:
        source = self.source("10.0.0.0/8", "10.0.0.1", "fe80::1%" + "x" * 100)
        assert source is not None
        assert len(source) <= 45

    async def test_a_trusted_proxys_word_decides_about_the_session_and_the_throttle(
        self, config: AuthConfig, own: OwnSecrets, services: Services
    ) -> None:
        behind = config.model_copy(update={"trusted_proxies": (ip_network("192.0.2.0/24"),)})
        headers = {"X-Forwarded-For": "1.2.3.4, 203.0.113.5"}
        async with serving(behind, own) as client:
            await client.post("/auth/register", json=ADA)
            login = await client.post("/auth/login", json=ADA, headers=headers)
            (session,) = (await client.get("/auth/sessions", headers=bearer(login))).json()["sessions"]
            assert session["address"] == "203.0.113.5"
            client.cookies.clear()
            await block(services, login_keys(EMAIL, "203.0.113.5", None))
            assert (await client.post("/auth/login", json=ADA, headers=headers)).status_code == 429

    async def test_nobody_elses_word_counts(self, client: httpx.AsyncClient, services: Services) -> None:
        await block(services, login_keys(EMAIL, HOME, None))
        for number in range(3):
            headers = {
                "X-Forwarded-For": f"203.0.113.{number}",
                "Forwarded": "for=203.0.113.9",
                "X-Real-IP": "203.0.113.9",
            }
            assert (await client.post("/auth/login", json=ADA, headers=headers)).status_code == 429


class TestSessionList:
    @pytest.fixture
    async def two(self, client: httpx.AsyncClient) -> list[httpx.Response]:
        await client.post("/auth/register", json=ADA)
        agents = ["Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0", "curl/8.5.0"]
        return [await client.post("/auth/login", json=ADA, headers={"User-Agent": agent}) for agent in agents]

    async def test_a_session_shows_where_and_with_what_it_was_opened(
        self, client: httpx.AsyncClient, two: list[httpx.Response]
    ) -> None:
        for number, own in enumerate(two):
            sessions = (await client.get("/auth/sessions", headers=bearer(own))).json()["sessions"]
            shown = {session["id"]: session for session in sessions}
            ids = [each.json()["session_id"] for each in two]
            assert shown.keys() == set(ids)
            assert [shown[each]["device"] for each in ids] == ["Firefox on Linux", "curl"]
            assert [shown[each]["address"] for each in ids] == [HOME, HOME]
            assert [shown[each]["current"] for each in ids] == [number == 0, number == 1]

    async def test_a_session_of_ones_own_can_be_ended_once(
        self, client: httpx.AsyncClient, two: list[httpx.Response]
    ) -> None:
        own, other = two
        path = f"/auth/sessions/{other.json()['session_id']}"
        response = await client.delete(path, headers=bearer(own))
        assert (response.status_code, response.json()) == (200, {"revoked": 1})
        refreshed = await client.post("/auth/refresh", json={"refresh_token": other.json()["refresh_token"]})
        assert refreshed.status_code == 401
        again = await client.delete(path, headers=bearer(own))
        assert (again.status_code, again.json()["code"]) == (404, "session_not_found")
        (left,) = (await client.get("/auth/sessions", headers=bearer(own))).json()["sessions"]
        assert left["id"] == own.json()["session_id"]

    async def test_anothers_session_cannot_be_ended(self, client: httpx.AsyncClient, two: list[httpx.Response]) -> None:
        eve = {**ADA, "email": "eve@example.com"}
        await client.post("/auth/register", json=eve)
        eves = await client.post("/auth/login", json=eve)
        for session_id, status in ((two[0].json()["session_id"], 404), (uuid4(), 404), ("x", 422)):
            response = await client.delete(f"/auth/sessions/{session_id}", headers=bearer(eves))
            assert response.status_code == status
        sessions = (await client.get("/auth/sessions", headers=bearer(two[0]))).json()["sessions"]
        assert len(sessions) == 2
        assert len((await client.get("/auth/sessions", headers=bearer(eves))).json()["sessions"]) == 1


async def test_free_attempts_of_the_same_moment_do_not_wait_for_each_other(logins: Logins) -> None:
    """Requests reach the counters in another order than the clock was read in."""
    late, early = NOW + timedelta(milliseconds=1), NOW
    keys = login_keys(EMAIL, HOME, None)
    assert await logins.count(keys, late)
    assert await logins.count(keys, early)
