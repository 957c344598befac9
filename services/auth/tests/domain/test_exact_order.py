"""A change ends every token that was issued before it and none that is issued after, however close they come.

No clock decides that: a token says after which revocation it was issued.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from oauth_harness import claims_of
from sqlalchemy import select, update
from users import PASSWORD, new_user

from ostiary import Verifier, VerifierConfig
from ostiary.errors import Revoked
from ostiary.feed import EVERYTHING, Kind
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.accounts.service import PasswordChange
from ostiary_auth.domain.context import OPERATOR, Context, user_actor
from ostiary_auth.domain.errors import InvalidClient, InvalidRefreshToken, SessionEnded
from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.domain.keys.rotation import KeyPolicy, SigningKeys
from ostiary_auth.domain.oauth.clients import CACHED_FOR
from ostiary_auth.domain.oauth.model import FIRST_PARTY, FIRST_PARTY_CLIENT_ID, Client, Credentials
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.domain.sessions import service as sessions_module
from ostiary_auth.domain.sessions.model import BrowserGrant, Grant, LogoutScope
from ostiary_auth.domain.sessions.refresh_tokens import REPLAY_GRACE
from ostiary_auth.domain.sessions.session_secrets import parse
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.revocation.tables import revocations

ROLES = (("user",), ("admin", "user"))


@dataclass(frozen=True)
class Issued:
    """An access token, and what it was made of if it belongs to a session."""

    token: str
    grant: Grant | None = None

    @property
    def claims(self) -> dict[str, Any]:
        return claims_of(self.token)

    @property
    def session_id(self) -> UUID:
        assert self.grant is not None
        return self.grant.session.id

    @property
    def refresh_token(self) -> str:
        assert self.grant is not None
        return self.grant.refresh_token


class Replica:
    """A replica that gives out tokens and follows the log, and whose verifier tells which of them are good."""

    def __init__(self, services: Services) -> None:
        self.services = services
        config = VerifierConfig(
            issuer=services.config.issuer,
            audience=services.config.audience,
            key_source=services.local_keys.public,
            revocation_source=services.feed.local,
        )
        # How old its knowledge is, is not the matter here.
        self._verifier = Verifier(config, max_staleness=None)

    async def log_in(self, user: User, context: Context, client_id: str = FIRST_PARTY_CLIENT_ID) -> Issued:
        """Open a session as a login does, but for the time that a password takes."""
        async with self.services.store.write() as transaction:
            current = await transaction.users.lock(user.id)
            assert current is not None
            grant = await self.services.sessions.open(transaction, current, client_id, context)
        return await self.issue(grant, context)

    async def log_in_with_password(self, user: User, context: Context) -> Issued:
        accounts = self.services.accounts
        login = await accounts.log_in(user.email, PASSWORD, None, FIRST_PARTY_CLIENT_ID, context)
        return await self.issue(login.grant, context)

    async def open_browser(self, user: User) -> BrowserGrant:
        async with self.services.store.write() as transaction:
            current = await transaction.users.lock(user.id)
            assert current is not None
            return await self.services.sessions.open_in_browser(
                transaction, current, FIRST_PARTY_CLIENT_ID, now(), persistent=True
            )

    async def exchange(self, credential: str) -> Issued:
        """Exchange a browser's session as a gateway does. Raises SessionEnded."""
        entitlement = await self.services.exchange.entitle(credential)
        return Issued((await self.services.tokens.for_session(entitlement, now().now)).token)

    async def refresh(self, refresh_token: str, context: Context) -> Issued:
        grant = await self.services.sessions.refresh(refresh_token, FIRST_PARTY_CLIENT_ID, context)
        return await self.issue(grant, context)

    async def refresh_by_oauth(self, refresh_token: str, context: Context, client: Client = FIRST_PARTY) -> Issued:
        """Do the same as it is done at the OAuth endpoint."""
        grant, access = await self.services.oauth.refresh(client, refresh_token, None, context)
        return Issued(access.token, grant)

    async def issue(self, grant: Grant, context: Context) -> Issued:
        return Issued((await self.services.tokens.for_session(grant, context.now)).token, grant)

    async def grant_to_client(self, credentials: Credentials, context: Context) -> Issued:
        client = await self.services.clients.authenticate(credentials, context)
        return Issued((await self.services.oauth.client_credentials(client, None, None, context)).token)

    async def is_good(self, issued: Issued) -> bool:
        """Return whether a token is accepted by whoever knows all that has been committed."""
        await self.services.feed.refresh()
        return self.accepts(issued)

    def accepts(self, issued: Issued) -> bool:
        """Return whether a token is accepted here as things stand."""
        try:
            self._verifier.verify(issued.token)
        except Revoked:
            return False
        return True

    async def add_user(self, roles: tuple[str, ...] = ("user",), password: str | None = None) -> User:
        hashed = "-" if password is None else await self.services.hasher.hash(password)
        user = new_user(f"{uuid4()}@example.com", *roles, password_hash=hashed)
        async with self.services.store.write() as transaction:
            await transaction.users.add(user)
        return user

    async def add_client(self, name: str = "worker", **settings: Any) -> Credentials:
        client = Client(name, "Worker", ("client_credentials",), ("jobs:read",), (self.services.config.audience,))
        _, secret = await self.services.clients.create(replace(client, **settings), now())
        return Credentials(name, secret)

    async def logged(self) -> list[tuple[Kind, str]]:
        """Return all that has been revoked, in its order."""
        async with self.services.database.read() as connection:
            rows = await connection.execute(select(revocations).order_by(revocations.c.number))
            return [(Kind(row.kind), row.target) for row in rows]


def now() -> Context:
    return Context(datetime.now(UTC))


@pytest.fixture
def replica(services: Services) -> Replica:
    return Replica(services)


@pytest.fixture
async def replicas(services: Services, config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[list[Replica]]:
    """Several replicas on one database, the first of which is `replica`'s."""
    more = [Services(config, own) for _ in range(1 if services.database.is_sqlite else 2)]
    for each in more:
        each.local_keys.use(services.local_keys.ring())
    yield [Replica(each) for each in (services, *more)]
    for each in more:
        await each.close()


class TestRoles:
    async def test_a_token_from_before_a_change_is_revoked_and_one_from_after_is_good(self, replica: Replica) -> None:
        user, context = await replica.add_user(), now()
        first = await replica.log_in(user, context)
        other = await replica.log_in(await replica.add_user(), context)
        refreshed = await replica.refresh(first.refresh_token, context)
        before = [first, refreshed, await replica.log_in(user, context)]
        for roles in (ROLES[1], ROLES[0], (), ROLES[1]):
            assert [await replica.is_good(issued) for issued in before] == [True] * 3
            await replica.services.accounts.set_roles(user.id, roles, context)
            # In the same millisecond, and in the same session.
            refreshed = await replica.refresh(refreshed.refresh_token, context)
            after = [
                refreshed,
                await replica.log_in(user, context),
                await replica.refresh_by_oauth(refreshed.refresh_token, context),
            ]
            assert [await replica.is_good(issued) for issued in before] == [False] * 3
            assert [issued.grant.user.roles for issued in after if issued.grant] == [tuple(sorted(roles))] * 3
            refreshed, before = after[2], after
        assert await replica.is_good(other)

    async def test_an_answer_that_is_given_again_has_the_roles_of_now(self, replica: Replica) -> None:
        user, context = await replica.add_user(), now()
        login = await replica.log_in(user, context)
        lost = await replica.refresh(login.refresh_token, context)
        await replica.services.accounts.set_roles(user.id, ROLES[1], context)
        again = await replica.refresh(login.refresh_token, context)
        assert again.refresh_token == lost.refresh_token
        assert not await replica.is_good(lost)
        assert await replica.is_good(again)

    @pytest.mark.parametrize("seed", range(2))
    async def test_every_token_has_the_old_roles_and_is_revoked_or_the_new_ones_and_is_good(
        self, replicas: list[Replica], seed: int
    ) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret
        context, accounts = now(), [each.services.accounts for each in replicas]
        user = await replicas[0].add_user(ROLES[0])
        refresh_tokens = [(await replicas[0].log_in(user, context)).refresh_token for _ in range(4)]
        seen = set()
        for number in range(3):
            new = ROLES[(number + 1) % 2]

            async def change(new: tuple[str, ...] = new) -> None:
                await chance.choice(accounts).set_roles(user.id, new, context)

            async def log_in() -> Issued:
                return await chance.choice(replicas).log_in(user, context)

            async def refresh(token: str) -> Issued:
                return await chance.choice(replicas).refresh(token, context)

            work: list[Coroutine[Any, Any, Issued | None]] = [log_in() for _ in range(6)]
            work += [refresh(token) for token in refresh_tokens]
            chance.shuffle(work)
            work.insert(chance.randrange(len(work)), change())
            issued = [each for each in await asyncio.gather(*work) if each is not None]
            for replica in replicas:
                await replica.services.feed.refresh()
            for each in issued:
                assert each.grant is not None
                is_new = each.grant.user.roles == new
                seen.add(is_new)
                assert {replica.accepts(each) for replica in replicas} == {is_new}
            refresh_tokens = [each.refresh_token for each in issued if each.refresh_token not in refresh_tokens][-4:]
        assert seen == {True, False}

    async def test_the_same_roles_again_revoke_nothing(self, replica: Replica) -> None:
        user, context = await replica.add_user(ROLES[1]), now()
        issued = await replica.log_in(user, context)
        assert await replica.services.accounts.set_roles(user.id, tuple(reversed(ROLES[1])), context) == ()
        assert await replica.is_good(issued)


class TestBrowsers:
    """A session that is exchanged while it ends, or changes, has no token left that says otherwise."""

    @pytest.fixture
    async def user(self, replicas: list[Replica]) -> User:
        return await replicas[0].add_user(ROLES[0], PASSWORD)

    async def race(
        self,
        replicas: list[Replica],
        seed: int,
        sessions: list[BrowserGrant],
        change: Callable[[Services], Awaitable[Any]],
    ) -> list[Issued]:
        """Exchange sessions at all replicas while one of them makes a change; return the tokens."""
        chance = random.Random(seed)  # noqa: S311 - no secret

        async def exchange(session: BrowserGrant) -> Issued | None:
            try:
                return await chance.choice(replicas).exchange(session.credential)
            except SessionEnded:
                return None

        async def make_change() -> None:
            await change(chance.choice(replicas).services)

        work: list[Coroutine[Any, Any, Issued | None]] = [exchange(session) for session in sessions for _ in range(8)]
        chance.shuffle(work)
        work.insert(chance.randrange(len(work)), make_change())
        issued = await asyncio.gather(*work)
        for replica in replicas:
            await replica.services.feed.refresh()
        return [each for each in issued if each is not None]

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("how", ["cookie", "everywhere", "admin", "disable", "delete"])
    async def test_no_token_outlives_a_session(self, replicas: list[Replica], user: User, how: str, seed: int) -> None:
        browsers = [await replicas[0].open_browser(user) for _ in range(2)]
        ended = browsers if how != "cookie" else browsers[:1]
        changes: dict[str, Callable[[Services], Awaitable[Any]]] = {
            "cookie": lambda services: services.sessions.end_by_proof(parse(browsers[0].credential), now()),
            "everywhere": lambda services: services.sessions.end(user.id, browsers[0].session.id, "global", now()),
            "admin": lambda services: services.accounts.end_sessions(user.id, now()),
            "disable": lambda services: services.accounts.disable(user.id, now()),
            "delete": lambda services: services.accounts.delete(user.id, now()),
        }
        issued = await self.race(replicas, seed, browsers, changes[how])
        over = {str(browser.session.id) for browser in ended}
        for each in issued:
            assert {replica.accepts(each) for replica in replicas} == {each.claims["sid"] not in over}
        for browser in ended:
            with pytest.raises(SessionEnded):
                await replicas[0].exchange(browser.credential)

    @pytest.mark.parametrize("seed", range(4))
    async def test_every_token_has_the_old_roles_and_is_revoked_or_the_new_ones_and_is_good(
        self, replicas: list[Replica], user: User, seed: int
    ) -> None:
        browsers = [await replicas[0].open_browser(user) for _ in range(3)]
        for new in (ROLES[1], ROLES[0]):

            async def change(services: Services, new: tuple[str, ...] = new) -> None:
                await services.accounts.set_roles(user.id, new, now())

            issued = await self.race(replicas, seed, browsers, change)
            assert len(issued) == 24
            for each in issued:
                is_new = tuple(each.claims["roles"]) == new
                assert {replica.accepts(each) for replica in replicas} == {is_new}

    @pytest.mark.parametrize("seed", range(4))
    async def test_after_a_new_password_neither_the_old_secret_nor_its_tokens_are_good(
        self, replicas: list[Replica], user: User, seed: int
    ) -> None:
        own, other = [await replicas[0].open_browser(user) for _ in range(2)]
        changed: list[PasswordChange] = []

        async def change(services: Services) -> None:
            proof, new = parse(own.credential), "a whole new battery staple"
            changed.append(
                await services.accounts.change_password(user.id, own.session.id, PASSWORD, new, now(), proof=proof)
            )

        issued = await self.race(replicas, seed, [own, other], change)
        assert not any(replica.accepts(each) for each in issued for replica in replicas)
        for browser in (own, other):
            with pytest.raises(SessionEnded):
                await replicas[0].exchange(browser.credential)
        grant = changed[0].grant
        assert grant is not None
        new = await replicas[0].services.tokens.for_session(grant, now().now)
        for token in (Issued(new.token), await replicas[0].exchange(grant.credential)):
            assert all([await replica.is_good(token) for replica in replicas])

    async def test_two_logins_with_each_others_cookies_end_both_sessions(self, replicas: list[Replica]) -> None:
        users = [await replicas[0].add_user(password=PASSWORD) for _ in range(2)]
        before = [await replicas[0].open_browser(user) for user in users]

        async def log_in(user: User, replaced: BrowserGrant) -> None:
            await replicas[-1].services.accounts.log_in_with_browser(
                user.email,
                PASSWORD,
                None,
                FIRST_PARTY_CLIENT_ID,
                now(),
                persistent=True,
                replaced=parse(replaced.credential),
            )

        await asyncio.gather(log_in(users[0], before[1]), log_in(users[1], before[0]))
        for browser in before:
            with pytest.raises(SessionEnded):
                await replicas[0].exchange(browser.credential)

    async def test_replicas_that_exchange_the_same_sessions_in_any_order_do_not_block_each_other(
        self, replicas: list[Replica], user: User
    ) -> None:
        browsers = [await replicas[0].open_browser(user) for _ in range(40)]
        chance = random.Random(1)  # noqa: S311 - no secret
        work = [replica.exchange(browser.credential) for browser in browsers for replica in replicas]
        chance.shuffle(work)
        # A deadlock would take a second, and then be an error.
        assert len(await asyncio.gather(*work)) == len(work)


class TestClients:
    async def test_a_token_from_before_is_revoked_and_one_from_after_is_good(self, replica: Replica) -> None:
        credentials, context, clients = await replica.add_client(), now(), replica.services.clients
        other = await replica.grant_to_client(await replica.add_client("other"), context)
        before = await replica.grant_to_client(credentials, context)
        for _ in range(3):
            assert await replica.is_good(before)
            await clients.disable("worker", context)
            assert not await replica.is_good(before)
            with pytest.raises(InvalidClient):
                await replica.grant_to_client(credentials, context)
            await clients.enable("worker", context)
            after = await replica.grant_to_client(credentials, context)
            assert not await replica.is_good(before)
            before = after
        assert await replica.is_good(other)

    async def test_after_its_end_a_client_of_the_same_name_is_another(self, replica: Replica) -> None:
        credentials, context = await replica.add_client(), now()
        before = await replica.grant_to_client(credentials, context)
        await replica.services.clients.delete("worker", context)
        after = await replica.grant_to_client(await replica.add_client(), context)
        assert not await replica.is_good(before)
        assert await replica.is_good(after)

    async def test_what_a_replica_issues_that_has_not_heard_of_it_is_revoked_too(self, replicas: list[Replica]) -> None:
        first, second = replicas[:2]
        credentials, context = await first.add_client(), now()
        await second.grant_to_client(credentials, context)
        await first.services.clients.disable("worker", context)
        late = await second.grant_to_client(credentials, context)
        for replica in replicas:
            assert not await replica.is_good(late)
        # By then it has heard of it.
        with pytest.raises(InvalidClient):
            await second.grant_to_client(credentials, context)
        await first.services.clients.enable("worker", context)
        assert not await first.is_good(late)

    async def test_a_replica_that_has_heard_of_it_issues_good_ones(self, replicas: list[Replica]) -> None:
        first, second = replicas[:2]
        credentials, context = await first.add_client(), now()
        before = await second.grant_to_client(credentials, context)
        await first.services.clients.disable("worker", context)
        await first.services.clients.enable("worker", context)
        await second.services.feed.refresh()
        after = await second.grant_to_client(credentials, context)
        for replica in replicas:
            assert not await replica.is_good(before)
            assert await replica.is_good(after)

    @pytest.mark.parametrize("seed", range(2))
    async def test_whoever_issues_at_the_same_time_no_good_token_is_left(
        self, replicas: list[Replica], seed: int
    ) -> None:
        chance, context = random.Random(seed), now()  # noqa: S311 - no secret
        credentials = await replicas[0].add_client()

        async def issue() -> Issued | None:
            replica = chance.choice(replicas)
            replica.services.clients.invalidate("worker")
            try:
                return await replica.grant_to_client(credentials, context)
            except InvalidClient:
                return None

        async def disable() -> None:
            await chance.choice(replicas).services.clients.disable("worker", context)

        for _ in range(3):
            work: list[Coroutine[Any, Any, Issued | None]] = [issue() for _ in range(10)]
            work.insert(chance.randrange(len(work)), disable())
            issued = [await issue(), *await asyncio.gather(*work)]
            assert issued[0] is not None
            await replicas[0].services.feed.refresh()
            assert not any(replicas[0].accepts(each) for each in issued if each is not None)
            for replica in replicas:
                await replica.services.clients.enable("worker", context)

    async def test_a_session_that_is_refreshed_for_a_disabled_client_has_no_good_token(self, replica: Replica) -> None:
        credentials = await replica.add_client(grants=("refresh_token",))
        user, context = await replica.add_user(), now()
        login = await replica.log_in(user, context, "worker")
        # As in any request: first the client is recognised, and then it is served.
        client = await replica.services.clients.authenticate(credentials, context)
        await replica.services.clients.disable("worker", context)
        with pytest.raises(InvalidClient):
            await replica.refresh_by_oauth(login.refresh_token, context, client)

    async def test_a_session_that_is_refreshed_after_a_change_of_its_user_has_a_good_token(
        self, replica: Replica
    ) -> None:
        credentials = await replica.add_client(grants=("refresh_token",))
        user, context = await replica.add_user(), now()
        login = await replica.log_in(user, context, "worker")
        client = await replica.services.clients.authenticate(credentials, context)
        await replica.services.accounts.set_roles(user.id, ROLES[1], context)
        refreshed = await replica.refresh_by_oauth(login.refresh_token, context, client)
        assert refreshed.grant is not None
        assert refreshed.grant.user.roles == ROLES[1]
        assert await replica.is_good(refreshed)

    @pytest.mark.parametrize("seed", range(2))
    async def test_whatever_happens_at_once_what_was_before_is_revoked_and_what_is_after_is_good(
        self, replicas: list[Replica], seed: int
    ) -> None:
        # Other replicas learn of it within the time that they remember a client for.
        history = History(seed, replicas, step=CACHED_FOR)
        credentials = await replicas[0].add_client()

        async def issue(replica: Replica, context: Context) -> Issued:
            return await replica.grant_to_client(credentials, context)

        async def change(context: Context) -> None:
            clients = history.chance.choice(replicas).services.clients
            await clients.disable("worker", context)
            await clients.enable("worker", context)

        for _ in range(2):
            await history.live(issue, change)


class TestEverything:
    async def test_a_token_from_before_is_revoked_and_one_from_after_is_good(self, replica: Replica) -> None:
        user, context = await replica.add_user(), now()
        login = await replica.log_in(user, context)
        before = [login, await replica.grant_to_client(await replica.add_client(), context)]
        assert [await replica.is_good(issued) for issued in before] == [True] * 2
        await replica.services.revocations.revoke_all(replica.services.store, context)
        after = [await replica.log_in(user, context), await replica.refresh(login.refresh_token, context)]
        after.append(await replica.grant_to_client(await replica.add_client("other"), context))
        assert [await replica.is_good(issued) for issued in before] == [False] * 2
        assert [await replica.is_good(issued) for issued in after] == [True] * 3

    async def test_a_client_that_comes_after_the_replica_has_looked_gets_a_good_one(self, replica: Replica) -> None:
        credentials, context = await replica.add_client(), now()
        await replica.grant_to_client(credentials, context)
        await replica.services.revocations.revoke_all(replica.services.store, context)
        await replica.services.feed.refresh()
        assert await replica.is_good(await replica.grant_to_client(credentials, context))

    async def test_a_client_that_comes_right_after_gets_a_good_one(self, replica: Replica) -> None:
        credentials, context = await replica.add_client(), now()
        await replica.grant_to_client(credentials, context)
        await replica.services.revocations.revoke_all(replica.services.store, context)
        assert await replica.is_good(await replica.grant_to_client(credentials, context))

    @pytest.mark.parametrize("seed", range(2))
    async def test_whatever_happens_at_once_what_was_before_is_revoked_and_what_is_after_is_good(
        self, replicas: list[Replica], seed: int
    ) -> None:
        history = History(seed, replicas)
        user = await replicas[0].add_user()

        async def issue(replica: Replica, context: Context) -> Issued:
            return await replica.log_in(user, context)

        async def change(context: Context) -> None:
            services = history.chance.choice(replicas).services
            await services.revocations.revoke_all(services.store, context)

        for _ in range(2):
            await history.live(issue, change)

    async def test_after_the_log_was_begun_anew_nothing_from_before_is_good(
        self, replica: Replica, config: AuthConfig, own: ServiceSecrets
    ) -> None:
        user, context = await replica.add_user(), now()
        login = await replica.log_in(user, context)
        services = replica.services
        async with services.store.write() as transaction:
            await services.revocations.restart(transaction, context)
        after = await replica.log_in(user, context)
        restarted = Replica(Services(config, own))
        restarted.services.local_keys.use(services.local_keys.ring())
        assert not await restarted.is_good(login)
        assert await restarted.is_good(after)
        assert await restarted.is_good(await restarted.refresh(login.refresh_token, context))
        await restarted.services.close()


class History:
    """What began and what ended before what, and that tokens keep to it."""

    def __init__(self, seed: int, replicas: list[Replica], step: timedelta = timedelta(0)) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.replicas = replicas
        self.context = Context(datetime.now(UTC) - 2 * step)
        self._step = step
        self._moment = 0

    async def live(
        self,
        issue: Callable[[Replica, Context], Awaitable[Issued]],
        change: Callable[[Context], Awaitable[None]],
    ) -> None:
        """Issue tokens before, during and after a change, and hold each against it."""
        issued: list[tuple[int, int, Issued]] = []
        changed: list[tuple[int, int]] = []

        async def issue_one() -> None:
            began = self._tick()
            with suppress(InvalidClient):
                token = await issue(self.chance.choice(self.replicas), self.context)
                issued.append((began, self._tick(), token))

        async def change_it() -> None:
            began = self._tick()
            await change(self.context)
            changed.append((began, self._tick()))

        await asyncio.gather(*(issue_one() for _ in range(3)))
        during = [issue_one() for _ in range(8)]
        during.insert(self.chance.randrange(len(during)), change_it())
        await asyncio.gather(*during)
        self.context = Context(self.context.now + self._step)
        await asyncio.gather(*(issue_one() for _ in range(3)))
        ((change_began, change_ended),) = changed
        assert len(issued) >= 6
        for replica in self.replicas:
            await replica.services.feed.refresh()
        for began, ended, token in issued:
            good = {replica.accepts(token) for replica in self.replicas}
            assert len(good) == 1
            if ended < change_began:
                assert good == {False}
            if began > change_ended:
                assert good == {True}

    def _tick(self) -> int:
        self._moment += 1
        return self._moment


class TestLogout:
    async def test_a_login_right_after_a_global_logout_is_good(self, replicas: list[Replica]) -> None:
        user, context = await replicas[0].add_user(password=PASSWORD), now()
        login = await replicas[0].log_in_with_password(user, context)
        await replicas[0].services.sessions.end(user.id, login.session_id, "global", context)
        again = await replicas[1].log_in_with_password(user, context)
        for replica in replicas:
            assert not await replica.is_good(login)
            assert await replica.is_good(again)
        with pytest.raises(InvalidRefreshToken):
            await replicas[0].refresh(login.refresh_token, context)
        assert await replicas[0].is_good(await replicas[1].refresh(again.refresh_token, context))

    @pytest.mark.parametrize(
        ("scope", "good"), [("local", [False, True, True]), ("others", [True, False, False]), ("global", [False] * 3)]
    )
    async def test_a_logout_ends_the_tokens_of_the_sessions_it_ends(
        self, replica: Replica, scope: LogoutScope, good: list[bool]
    ) -> None:
        user, context = await replica.add_user(), now()
        logins = [await replica.log_in(user, context) for _ in range(3)]
        refreshed = [await replica.refresh(login.refresh_token, context) for login in logins]
        ended = await replica.services.sessions.end(user.id, logins[0].session_id, scope, context)
        assert len(ended) == good.count(False)
        for tokens in (logins, refreshed):
            assert [await replica.is_good(issued) for issued in tokens] == good

    async def test_a_refresh_and_a_logout_at_once_leave_no_good_token(self, replicas: list[Replica]) -> None:
        user, context = await replicas[0].add_user(), now()
        for _ in range(5):
            login = await replicas[0].log_in(user, context)
            end = replicas[-1].services.sessions.end(user.id, login.session_id, "local", context)
            refresh = replicas[0].refresh(login.refresh_token, context)
            refreshed, ended = await asyncio.gather(refresh, end, return_exceptions=True)
            assert isinstance(ended, tuple)
            assert len(ended) == 1
            for issued in (login, refreshed):
                if isinstance(issued, Issued):
                    assert not await replicas[0].is_good(issued)
                else:
                    assert isinstance(issued, InvalidRefreshToken)


@dataclass
class Scene:
    """Somebody with three sessions and a token of each, a client with a token, and a key that signs."""

    replica: Replica
    user: User
    logins: list[Issued]
    client: Issued
    #: What the operation has returned.
    revoked: RevokedNumbers = ()

    @property
    def services(self) -> Services:
        return self.replica.services

    @property
    def sessions(self) -> list[str]:
        return [str(login.session_id) for login in self.logins]


Expected = list[tuple[Kind, str]]


async def log_out_local(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.sessions.end(scene.user.id, scene.logins[0].session_id, "local", context)
    return [(Kind.SESSION, scene.sessions[0])]


async def log_out_others(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.sessions.end(scene.user.id, scene.logins[0].session_id, "others", context)
    return [(Kind.SESSION, session) for session in scene.sessions[1:]]


async def log_out_global(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.sessions.end(scene.user.id, scene.logins[0].session_id, "global", context)
    return [(Kind.SESSION, session) for session in scene.sessions]


async def end_a_session(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.sessions.end_one(scene.user.id, scene.logins[1].session_id, context)
    return [(Kind.SESSION, scene.sessions[1])]


async def end_all_sessions(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.accounts.end_sessions(scene.user.id, context)
    return [(Kind.SESSION, session) for session in scene.sessions]


async def change_the_password(scene: Scene, context: Context) -> Expected:
    hashed = await scene.services.hasher.hash(PASSWORD)
    async with scene.services.database.write() as connection:
        await connection.execute(update(users).where(users.c.id == scene.user.id).values(password_hash=hashed))
    kept, new = scene.logins[0].session_id, "a whole new battery staple"
    changed = await scene.services.accounts.change_password(scene.user.id, kept, PASSWORD, new, context)
    scene.revoked = changed.revoked
    return [(Kind.SESSION, session) for session in scene.sessions[1:]]


async def disable_the_user(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.accounts.disable(scene.user.id, context)
    return [(Kind.SESSION, session) for session in scene.sessions]


async def delete_the_user(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.accounts.delete(scene.user.id, context)
    return [(Kind.SESSION, session) for session in scene.sessions]


async def steal_a_refresh_token(scene: Scene, context: Context) -> Expected:
    stolen = scene.logins[2].refresh_token
    await scene.services.sessions.refresh(stolen, FIRST_PARTY_CLIENT_ID, context)
    late = replace(context, now=context.now + REPLAY_GRACE + timedelta(seconds=1))
    with pytest.raises(InvalidRefreshToken):
        await scene.services.sessions.refresh(stolen, FIRST_PARTY_CLIENT_ID, late)
    return [(Kind.SESSION, scene.sessions[2])]


async def revoke_a_refresh_token(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.oauth.revoke(FIRST_PARTY, scene.logins[1].refresh_token, context)
    return [(Kind.SESSION, scene.sessions[1])]


async def revoke_a_users_access_token(scene: Scene, context: Context) -> Expected:
    presented = scene.services.tokens.read(scene.logins[1].token)
    assert presented is not None
    scene.revoked = await scene.services.oauth.revoke(FIRST_PARTY, scene.logins[1].token, context)
    return [(Kind.TOKEN, presented.token.token_id)]


async def revoke_a_clients_access_token(scene: Scene, context: Context) -> Expected:
    presented = scene.services.tokens.read(scene.client.token)
    assert presented is not None
    scene.revoked = await scene.services.oauth.revoke(
        await scene.services.clients.get("worker"), scene.client.token, context
    )
    return [(Kind.TOKEN, presented.token.token_id)]


async def log_in_once_too_often(scene: Scene, context: Context) -> Expected:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions_module, "MAX_SESSIONS_PER_USER", len(scene.logins))
        await scene.replica.log_in(scene.user, context)
    return [(Kind.SESSION, scene.sessions[0])]


async def disable_the_client(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.clients.disable("worker", context)
    return [(Kind.CLIENT, "worker")]


async def delete_the_client(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.clients.delete("worker", context)
    return [(Kind.CLIENT, "worker")]


async def revoke_the_key(scene: Scene, context: Context) -> Expected:
    # Small keys are made in a tenth of the time.
    policy = KeyPolicy(1024, timedelta(days=30), timedelta(minutes=10), timedelta(minutes=15))
    vault = open_vault(scene.services.config)
    keys = SigningKeys(scene.services.store, scene.services.audit, scene.services.revocations, policy, lambda: vault)
    (kid,) = [key.kid for key in await keys.stored() if key.state is KeyState.SIGNING]
    scene.revoked = await keys.revoke(context, kid)
    return [(Kind.KEY, kid)]


async def change_the_roles(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.accounts.set_roles(scene.user.id, ("admin",), context)
    return [(Kind.SUBJECT, str(scene.user.id))]


async def revoke_everything(scene: Scene, context: Context) -> Expected:
    scene.revoked = await scene.services.revocations.revoke_all(scene.services.store, context)
    return [(Kind.ALL, EVERYTHING)]


#: Each with who loses their tokens: the three sessions, and the client.
WAYS: dict[Callable[[Scene, Context], Awaitable[Expected]], str] = {
    log_out_local: "x--/-",
    log_out_others: "-xx/-",
    log_out_global: "xxx/-",
    end_a_session: "-x-/-",
    end_all_sessions: "xxx/-",
    change_the_password: "-xx/-",
    disable_the_user: "xxx/-",
    delete_the_user: "xxx/-",
    steal_a_refresh_token: "--x/-",
    revoke_a_refresh_token: "-x-/-",
    revoke_a_users_access_token: "-x-/-",
    revoke_a_clients_access_token: "---/x",
    log_in_once_too_often: "x--/-",
    disable_the_client: "---/x",
    delete_the_client: "---/x",
    revoke_the_key: "xxx/x",
    change_the_roles: "xxx/-",
    revoke_everything: "xxx/x",
}


class TestEveryWay:
    @pytest.fixture
    async def scene(self, replica: Replica) -> Scene:
        user, opened_at = await replica.add_user(), datetime.now(UTC) - timedelta(minutes=1)
        logins = []
        for number in range(3):
            context = Context(opened_at + timedelta(seconds=number))
            logins.append(await replica.log_in(user, context))
        client = await replica.grant_to_client(await replica.add_client(), now())
        scene = Scene(replica, user, logins, client)
        assert await self.good(scene) == "---/-"
        return scene

    async def good(self, scene: Scene) -> str:
        """Return who has a good token still."""
        await scene.services.feed.refresh()
        marks = ["-" if scene.replica.accepts(issued) else "x" for issued in (*scene.logins, scene.client)]
        return f"{''.join(marks[:3])}/{marks[3]}"

    @pytest.mark.parametrize("way", WAYS)
    async def test_whoever_loses_their_tokens_stands_in_the_log(
        self, scene: Scene, way: Callable[[Scene, Context], Awaitable[Expected]]
    ) -> None:
        context = Context(datetime.now(UTC), OPERATOR)
        expected = await way(scene, context)
        logged = await scene.replica.logged()
        # Sessions that end together do so in the order of their ids.
        assert sorted(logged) == sorted(expected)
        if way not in {steal_a_refresh_token, log_in_once_too_often}:  # these answer something else
            assert scene.revoked == tuple(range(1, len(expected) + 1))
        assert await self.good(scene) == WAYS[way]
        # Whoever comes now is served.
        if way is not delete_the_user:
            await scene.services.accounts.enable(scene.user.id, context)
            fresh = await scene.services.keys.load()
            scene.services.local_keys.use(fresh)
            assert await scene.replica.is_good(await scene.replica.log_in(scene.user, now()))

    async def test_what_changes_nothing_writes_nothing(self, scene: Scene) -> None:
        context = Context(datetime.now(UTC), user_actor(scene.user.id))
        services = scene.services
        assert await services.sessions.end(scene.user.id, uuid4(), "local", context) == ()
        assert await services.oauth.revoke(FIRST_PARTY, "unknown", context) == ()
        assert await services.oauth.revoke(FIRST_PARTY, scene.client.token, context) == ()
        worker = await services.clients.get("worker")
        assert await services.oauth.revoke(worker, scene.logins[0].token, context) == ()
        await services.clients.enable("worker", context)
        await services.clients.rotate_secret("worker", context)
        await services.accounts.enable(scene.user.id, context)
        assert await services.accounts.set_roles(scene.user.id, scene.user.roles, context) == ()
        await services.accounts.export(scene.user.id, context)
        assert await scene.replica.logged() == []
        assert await self.good(scene) == "---/-"

    async def test_what_was_revoked_is_revoked_once(self, scene: Scene) -> None:
        worker = await scene.services.clients.get("worker")
        for _ in range(2):
            await scene.services.oauth.revoke(FIRST_PARTY, scene.logins[0].token, now())
            await scene.services.oauth.revoke(FIRST_PARTY, scene.logins[1].refresh_token, now())
            await scene.services.oauth.revoke(worker, scene.client.token, now())
            await scene.services.sessions.end(scene.user.id, scene.logins[2].session_id, "local", now())
        assert sorted(kind for kind, _ in await scene.replica.logged()) == sorted(
            [Kind.TOKEN, Kind.SESSION, Kind.TOKEN, Kind.SESSION]
        )
