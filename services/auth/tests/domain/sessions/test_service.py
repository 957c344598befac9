"""Refresh rotation: once each, the same answer again to a client that lost it, and an end to theft."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import structlog
from clocks import HandClock
from sqlalchemy import select
from structlog.testing import capture_logs
from users import new_user

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit import log
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.clock import Clock
from ostiary_auth.domain.context import Context, client_actor, user_actor
from ostiary_auth.domain.errors import InvalidRefreshToken
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.sessions.model import BrowserGrant, Grant, LogoutScope, SessionLimits
from ostiary_auth.domain.sessions.refresh_tokens import FREE_ROTATIONS, REPLAY_GRACE
from ostiary_auth.domain.sessions.service import Sessions
from ostiary_auth.domain.sessions.session_secrets import SessionProof, credential_of, parse
from ostiary_auth.services import Services
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions
from ostiary_auth.storage.store import AuthStore, AuthTransaction
from ostiary_auth.system_clock import SystemClock
from ostiary_chassis.sql import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LIMITS = SessionLimits(idle=timedelta(days=1), absolute=timedelta(days=3))


@pytest.fixture
async def user(store: AuthStore) -> User:
    user = new_user(at=NOW)
    async with store.write() as transaction:
        await transaction.users.add(user)
    return user


class Logins:
    """Sessions, driven with times alone."""

    def __init__(self, store: AuthStore, limits: SessionLimits = LIMITS, clock: Clock | None = None) -> None:
        self.store = store
        audit = AuditLog(bytes(32))
        self.sessions = Sessions(
            store, audit, RevocationLog(audit, timedelta(minutes=15)), limits, clock or SystemClock()
        )

    async def open(self, user: User, now: datetime, user_agent: str | None = None) -> Grant:
        async with self.store.write() as transaction:
            context = Context(now, user_agent=user_agent)
            return await self.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)

    async def refresh(self, token: str, now: datetime, client_id: str = FIRST_PARTY_CLIENT_ID) -> Grant:
        return await self.sessions.refresh(token, client_id, Context(now))

    async def refused(self, token: str, now: datetime, client_id: str = FIRST_PARTY_CLIENT_ID) -> bool:
        try:
            await self.refresh(token, now, client_id)
        except InvalidRefreshToken:
            return True
        return False

    async def end(self, user_id: UUID, session_id: UUID, scope: LogoutScope, now: datetime) -> int:
        return len(await self.sessions.end(user_id, session_id, scope, Context(now)))


@pytest.fixture
def logins(store: AuthStore) -> Logins:
    return Logins(store)


class TestRefresh:
    async def test_a_chain_goes_on(self, logins: Logins, user: User) -> None:
        grant = await logins.open(user, NOW)
        for step in range(1, 5):
            following = await logins.refresh(grant.refresh_token, NOW + step * timedelta(minutes=15))
            assert following.refresh_token != grant.refresh_token
            assert following.session.expires_at == NOW + LIMITS.absolute
            grant = following

    async def test_a_lost_answer_is_given_again(self, logins: Logins, user: User) -> None:
        grant = await logins.open(user, NOW)
        first = await logins.refresh(grant.refresh_token, NOW)
        again = await logins.refresh(grant.refresh_token, NOW + 5 * SECOND)
        assert again.refresh_token == first.refresh_token
        assert not await logins.refused(first.refresh_token, NOW + 6 * SECOND)

    async def test_fifty_at_once_get_the_same_successor(self, logins: Logins, user: User) -> None:
        grant = await logins.open(user, NOW)
        grants = await asyncio.gather(*(logins.refresh(grant.refresh_token, NOW) for _ in range(50)))
        assert len({each.refresh_token for each in grants}) == 1

    async def test_tabs_that_were_left_behind_get_the_newest_token(self, logins: Logins, user: User) -> None:
        first = (await logins.open(user, NOW)).refresh_token
        second = (await logins.refresh(first, NOW)).refresh_token
        third = (await logins.refresh(second, NOW + SECOND)).refresh_token
        for step, old in enumerate((first, second, first)):
            assert (await logins.refresh(old, NOW + step * SECOND)).refresh_token == third
        fourth = (await logins.refresh(third, NOW + REPLAY_GRACE)).refresh_token
        assert (await logins.refresh(first, NOW + REPLAY_GRACE)).refresh_token == fourth

    async def test_refreshing_often_prolongs_no_grace(self, logins: Logins, user: User) -> None:
        stolen = (await logins.open(user, NOW)).refresh_token
        token = stolen
        for step in range(0, 61, 5):
            token = (await logins.refresh(token, NOW + step * SECOND)).refresh_token
        assert await logins.refused(stolen, NOW + REPLAY_GRACE + SECOND)
        assert await logins.refused(token, NOW + REPLAY_GRACE + SECOND)

    async def test_who_refreshes_all_the_time_goes_on_and_fills_no_disk(self, logins: Logins, user: User) -> None:
        token = (await logins.open(user, NOW)).refresh_token
        seen = {token}
        for step in range(2 * FREE_ROTATIONS):
            token = (await logins.refresh(token, NOW + step * SECOND)).refresh_token
            seen.add(token)
        async with logins.store.database.read() as connection:
            stored = len((await connection.execute(select(refresh_tokens))).all())
        assert stored == len(seen) == 1 + FREE_ROTATIONS + 3

    async def test_eight_tabs_go_on_though_they_refresh_at_the_same_time(self, logins: Logins, user: User) -> None:
        tabs = [(await logins.open(user, NOW)).refresh_token] * 8
        for period in range(4):
            now = NOW + period * timedelta(minutes=15)
            for _ in range(3):
                grants = await asyncio.gather(*(logins.refresh(token, now) for token in tabs))
                tabs = [grant.refresh_token for grant in grants]
                assert len(set(tabs)) == 1
        assert not await logins.refused(tabs[0], NOW + timedelta(hours=1))

    async def test_theft_ends_the_session_for_both(self, logins: Logins, user: User) -> None:
        stolen = (await logins.open(user, NOW)).refresh_token
        thief = await logins.refresh(stolen, NOW)
        thief = await logins.refresh(thief.refresh_token, NOW + SECOND)
        late = NOW + REPLAY_GRACE + SECOND
        assert await logins.refused(stolen, late)
        assert await logins.refused(thief.refresh_token, late)

    async def test_a_disabled_users_idle_session_stays_closed_under_a_longer_limit(
        self, store: AuthStore, logins: Logins, user: User
    ) -> None:
        grant, late = await logins.open(user, NOW), NOW + LIMITS.idle + SECOND
        async with store.write() as transaction:
            # It is not ended, as it could not be continued at the time.
            context = Context(late)
            assert await logins.sessions.end_all_of(transaction, user.id, "user_disabled", context) == ()
            await transaction.users.replace(replace(user, disabled_at=late))
        longer = Logins(store, replace(LIMITS, idle=2 * LIMITS.idle))
        assert await longer.refused(grant.refresh_token, late)
        async with store.write() as transaction:
            await transaction.users.replace(user)
        assert not await longer.refused(grant.refresh_token, late)

    async def test_theft_in_one_session_leaves_the_others(self, logins: Logins, user: User) -> None:
        stolen = (await logins.open(user, NOW)).refresh_token
        other = await logins.open(user, NOW)
        await logins.refresh(stolen, NOW)
        late = NOW + REPLAY_GRACE + SECOND
        assert await logins.refused(stolen, late)
        assert not await logins.refused(other.refresh_token, late)

    @pytest.mark.parametrize("token", ["", "unknown", "x" * 5000, "\u00e9"])
    async def test_what_we_never_gave_out_is_refused(self, logins: Logins, token: str) -> None:
        assert await logins.refused(token, NOW)

    async def test_the_database_alone_opens_nothing(self, logins: Logins, user: User, store: AuthStore) -> None:
        grant = await logins.open(user, NOW)
        following = await logins.refresh(grant.refresh_token, NOW)
        async with store.database.read() as connection:
            rows = (await connection.execute(select(refresh_tokens))).all()
        for row in rows:
            for value in row:
                assert value not in {grant.refresh_token, following.refresh_token}
                assert value not in {grant.refresh_token.encode(), following.refresh_token.encode()}


class TestBrowsers:
    async def open(
        self, logins: Logins, user: User, now: datetime, replaced: BrowserGrant | None = None
    ) -> BrowserGrant:
        proof = parse(replaced.credential) if replaced else None
        async with logins.store.write() as transaction:
            return await logins.sessions.open_in_browser(
                transaction, user, FIRST_PARTY_CLIENT_ID, Context(now), persistent=True, replaced=proof
            )

    async def alive(self, logins: Logins, user: User, now: datetime) -> list[UUID]:
        return [session.id for session in await logins.sessions.of_user(user.id, now)]

    async def test_the_database_alone_opens_nothing(self, logins: Logins, user: User, store: AuthStore) -> None:
        browser = await self.open(logins, user, NOW)
        async with store.database.read() as connection:
            rows = (await connection.execute(select(sessions))).all()
        secret = browser.credential.partition(".")[2]
        for row in rows:
            for value in row:
                assert secret not in str(value)
                assert secret.encode() not in (value if isinstance(value, bytes) else b"")

    async def test_it_has_no_refresh_token(self, logins: Logins, user: User, store: AuthStore) -> None:
        browser = await self.open(logins, user, NOW)
        async with store.database.read() as connection:
            assert (await connection.execute(select(refresh_tokens))).all() == []
        for token in (browser.credential, browser.credential.partition(".")[2]):
            assert await logins.refused(token, NOW)

    async def test_the_one_that_is_left_makes_room_for_the_next(
        self, logins: Logins, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ostiary_auth.domain.sessions.service.MAX_SESSIONS_PER_USER", 3)
        opened = [await self.open(logins, user, NOW + step * SECOND) for step in range(3)]
        later = NOW + timedelta(minutes=1)
        # Nobody else's has to go: neither the oldest one, nor the newest.
        following = await self.open(logins, user, later, replaced=opened[2])
        expected = [following.session.id, opened[1].session.id, opened[0].session.id]
        assert await self.alive(logins, user, later) == expected
        further = await self.open(logins, user, later + SECOND)
        assert await self.alive(logins, user, later + SECOND) == [further.session.id, *expected[:2]]

    async def test_one_that_is_over_is_not_ended_again(self, logins: Logins, user: User) -> None:
        browser = await self.open(logins, user, NOW)
        late = NOW + LIMITS.idle
        assert await logins.sessions.end_by_proof(parse(browser.credential), Context(late)) == ()
        following = await self.open(logins, user, late, replaced=browser)
        assert await self.alive(logins, user, late) == [following.session.id]

    async def test_it_ends_once_and_with_its_own_secret_only(self, logins: Logins, user: User) -> None:
        browser, other = await self.open(logins, user, NOW), await self.open(logins, user, NOW)
        forged = credential_of(browser.session.id, other.credential.partition(".")[2])
        assert await logins.sessions.end_by_proof(parse(forged), Context(NOW)) == ()
        assert len(await logins.sessions.end_by_proof(parse(browser.credential), Context(NOW))) == 1
        assert await logins.sessions.end_by_proof(parse(browser.credential), Context(NOW)) == ()
        assert await self.alive(logins, user, NOW) == [other.session.id]


class TestEndingAtOnce:
    """Sessions that end at once end in few transactions, and each caller has their own outcome."""

    async def test_each_gets_the_number_of_their_own_revocation(
        self, logins: Logins, user: User, store: AuthStore
    ) -> None:
        ids = [(await logins.open(user, NOW)).session.id for _ in range(40)]
        async with store.read() as transaction:
            before = (await transaction.audit.entries(0, 1000))[-1].number
        revoked = await asyncio.gather(*(logins.sessions.end(user.id, each, "local", Context(NOW)) for each in ids))
        async with store.read() as transaction:
            logged = {each.number: each.target for each in await transaction.revocations.after(0, 2**62, 100)}
            entries = await transaction.audit.entries(before, 100)
        assert [logged[number] for (number,) in revoked] == [str(each) for each in ids]
        assert [each.number for each in entries] == list(range(before + 1, before + 1 + len(ids)))

    async def test_a_session_ends_once(self, logins: Logins, user: User) -> None:
        session_id = (await logins.open(user, NOW)).session.id
        ended = await asyncio.gather(*(logins.end(user.id, session_id, "local", NOW) for _ in range(5)))
        assert sorted(ended) == [0, 0, 0, 0, 1]

    async def test_whose_session_it_is_not_does_not_come_between(self, logins: Logins, user: User) -> None:
        session_id = (await logins.open(user, NOW)).session.id
        stranger = logins.end(uuid4(), session_id, "local", NOW)
        guesser = logins.sessions.end_by_proof(SessionProof(session_id, bytes(32)), Context(NOW))
        outcomes = await asyncio.gather(stranger, guesser, logins.end(user.id, session_id, "local", NOW))
        assert tuple(outcomes) == (0, (), 1)

    async def test_the_log_says_by_whom(self, logins: Logins, user: User, store: AuthStore) -> None:
        by_token, by_client = [await logins.open(user, NOW) for _ in range(2)]
        anonymous, client = Context(NOW), Context(NOW, client_actor(FIRST_PARTY_CLIENT_ID))
        await asyncio.gather(
            logins.sessions.end(user.id, by_token.session.id, "local", anonymous),
            logins.sessions.end_by_refresh_token(by_client.refresh_token, FIRST_PARTY_CLIENT_ID, client),
        )
        async with store.read() as transaction:
            entries = await transaction.audit.entries_about(user_actor(user.id))
        assert {each.facts["session_id"]: each.actor for each in entries} == {
            str(by_token.session.id): user_actor(user.id),
            str(by_client.session.id): client_actor(FIRST_PARTY_CLIENT_ID),
        }

    async def test_the_line_of_each_names_the_request(
        self, logins: Logins, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = {f"r{number}": (await logins.open(user, NOW)).session.id for number in range(4)}
        monkeypatch.setattr(log, "_log", structlog.get_logger())
        calls = []
        with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            for name, each in ids.items():
                with structlog.contextvars.bound_contextvars(request_id=name):
                    context = Context(NOW, request_id=name)
                    calls.append(asyncio.create_task(logins.sessions.end(user.id, each, "local", context)))
            await asyncio.gather(*calls)
        assert {line["request_id"]: line["session_id"] for line in lines} == {n: str(i) for n, i in ids.items()}

    async def test_a_revocation_counts_from_the_end_of_a_wait(self, store: AuthStore, user: User) -> None:
        clock = HandClock(NOW)
        logins = Logins(store, clock=clock)
        session_id = (await logins.open(user, NOW)).session.id
        async with store.write() as transaction:
            await transaction.sessions.lock([session_id])
            ending = asyncio.create_task(logins.end(user.id, session_id, "local", NOW))
            await asyncio.sleep(0)
            clock.pass_(500 * SECOND)
        assert await ending == 1
        async with store.read() as transaction:
            (logged,) = await transaction.revocations.after(0, 2**62, 100)
        # A refresh meanwhile may have got a token that lives as long.
        assert logged.at == NOW + 500 * SECOND

    async def test_whoever_waits_for_the_logs_leaves_connections_to_others(
        self, logins: Logins, user: User, services: Services
    ) -> None:
        if services.database.is_sqlite:
            pytest.skip("SQLite has one writer")
        token = (await logins.open(user, NOW)).refresh_token
        other = AuthStore(Database(services.config.database()), AuthTransaction)

        async def append() -> None:
            async with services.store.queue() as transaction:
                await transaction.audit.lock_head()

        async with other.write() as transaction:
            await transaction.audit.lock_head()
            waiting = [asyncio.create_task(append()) for _ in range(20)]
            # Few: nobody waits, or pauses in a transaction, for longer than five seconds.
            for _ in range(5):
                token = (await logins.refresh(token, NOW)).refresh_token
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        await other.database.close()


class TestEnding:
    @pytest.fixture
    async def three(self, logins: Logins, user: User) -> list[Grant]:
        return [await logins.open(user, NOW) for _ in range(3)]

    @pytest.mark.parametrize(
        ("scope", "ended"), [("local", [True, False, False]), ("others", [False, True, True]), ("global", [True] * 3)]
    )
    async def test_a_scope_says_which_end(
        self, logins: Logins, user: User, three: list[Grant], scope: LogoutScope, ended: list[bool]
    ) -> None:
        count = await logins.end(user.id, three[0].session.id, scope, NOW)
        assert count == sum(ended)
        assert [await logins.refused(grant.refresh_token, NOW) for grant in three] == ended

    async def test_what_has_ended_is_not_ended_again(self, logins: Logins, user: User, three: list[Grant]) -> None:
        assert await logins.end(user.id, three[0].session.id, "local", NOW) == 1
        assert await logins.end(user.id, three[0].session.id, "local", NOW) == 0
        assert await logins.end(user.id, three[0].session.id, "global", NOW) == 2

    async def test_nobody_ends_somebody_elses_session(self, logins: Logins, three: list[Grant]) -> None:
        assert await logins.end(UUID(int=1), three[0].session.id, "local", NOW) == 0
        assert not await logins.refused(three[0].refresh_token, NOW)

    async def test_a_login_too_many_ends_the_one_used_longest_ago(
        self, logins: Logins, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ostiary_auth.domain.sessions.service.MAX_SESSIONS_PER_USER", 3)
        opened = [await logins.open(user, NOW + step * SECOND) for step in range(3)]
        first_used_again = await logins.refresh(opened[0].refresh_token, NOW + timedelta(minutes=1))
        last = await logins.open(user, NOW + timedelta(minutes=2))
        later = NOW + timedelta(minutes=3)
        alive = [session.id for session in await logins.sessions.of_user(user.id, later)]
        assert alive == [last.session.id, opened[0].session.id, opened[2].session.id]
        assert await logins.refused(opened[1].refresh_token, later)
        assert not await logins.refused(first_used_again.refresh_token, later)
