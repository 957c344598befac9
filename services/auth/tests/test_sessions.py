"""Refresh rotation: once each, the same answer again to a client that lost it, and an end to theft."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from ostiary_auth.domain.accounts import User
from ostiary_auth.domain.errors import InvalidRefreshToken
from ostiary_auth.domain.sessions import (
    REPLAY_GRACE,
    Grant,
    RefreshToken,
    Session,
    SessionLimits,
    Sessions,
    Verdict,
    judge,
)
from ostiary_auth.storage.store import SqlTransaction
from ostiary_auth.storage.tables import refresh_tokens
from ostiary_chassis.sql import SqlStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LIMITS = SessionLimits(idle=timedelta(days=1), absolute=timedelta(days=3))
SESSION = Session(uuid4(), uuid4(), None, NOW, NOW, NOW + LIMITS.absolute)
FRESH = RefreshToken(b"1", SESSION.id, NOW)
USED = replace(FRESH, used_at=NOW, successor_nonce=b"n", successor_hash=b"2")
SUCCESSOR = RefreshToken(b"2", SESSION.id, NOW)


class TestJudge:
    def test_a_token_is_used_once(self) -> None:
        assert judge(FRESH, None, SESSION, LIMITS, NOW) is Verdict.ROTATE

    def test_a_client_that_lost_the_answer_gets_it_again(self) -> None:
        assert judge(USED, SUCCESSOR, SESSION, LIMITS, NOW + REPLAY_GRACE) is Verdict.REPEAT

    def test_a_late_replay_is_theft(self) -> None:
        assert judge(USED, SUCCESSOR, SESSION, LIMITS, NOW + REPLAY_GRACE + SECOND) is Verdict.THEFT

    def test_a_replay_after_the_successor_was_used_is_theft(self) -> None:
        assert judge(USED, replace(SUCCESSOR, used_at=NOW), SESSION, LIMITS, NOW) is Verdict.THEFT

    def test_nothing_continues_a_session_that_has_ended(self) -> None:
        ended = replace(SESSION, ended_at=NOW)
        assert judge(FRESH, None, ended, LIMITS, NOW) is Verdict.REFUSE
        assert judge(USED, SUCCESSOR, ended, LIMITS, NOW) is Verdict.REFUSE

    def test_an_idle_session_ends_on_the_second(self) -> None:
        assert judge(FRESH, None, SESSION, LIMITS, NOW + LIMITS.idle - SECOND) is Verdict.ROTATE
        assert judge(FRESH, None, SESSION, LIMITS, NOW + LIMITS.idle) is Verdict.REFUSE

    def test_the_absolute_limit_ends_a_busy_session(self) -> None:
        late = replace(FRESH, created_at=NOW + LIMITS.absolute - SECOND)
        assert judge(late, None, SESSION, LIMITS, NOW + LIMITS.absolute - SECOND) is Verdict.ROTATE
        assert judge(late, None, SESSION, LIMITS, NOW + LIMITS.absolute) is Verdict.REFUSE


@pytest.fixture
async def user(store: SqlStore[SqlTransaction]) -> User:
    user = User(uuid4(), "ada@example.com", "ada@example.com", None, "-", ("user",), None, NOW)
    async with store.write() as transaction:
        await transaction.add_user(user)
    return user


@pytest.fixture
def sessions(store: SqlStore[SqlTransaction]) -> Sessions:
    return Sessions(store, LIMITS)


async def refused(sessions: Sessions, token: str, now: datetime) -> bool:
    try:
        await sessions.refresh(token, now)
    except InvalidRefreshToken:
        return True
    return False


class TestRefresh:
    async def test_a_chain_goes_on(self, sessions: Sessions, user: User) -> None:
        grant = await sessions.open(user, "browser", NOW)
        for step in range(1, 5):
            following = await sessions.refresh(grant.refresh_token, NOW + step * timedelta(minutes=15))
            assert following.refresh_token != grant.refresh_token
            assert following.session.expires_at == NOW + LIMITS.absolute
            grant = following

    async def test_a_lost_answer_is_given_again(self, sessions: Sessions, user: User) -> None:
        grant = await sessions.open(user, None, NOW)
        first = await sessions.refresh(grant.refresh_token, NOW)
        again = await sessions.refresh(grant.refresh_token, NOW + 5 * SECOND)
        assert again.refresh_token == first.refresh_token
        assert not await refused(sessions, first.refresh_token, NOW + 6 * SECOND)

    async def test_fifty_at_once_get_the_same_successor(self, sessions: Sessions, user: User) -> None:
        grant = await sessions.open(user, None, NOW)
        grants = await asyncio.gather(*(sessions.refresh(grant.refresh_token, NOW) for _ in range(50)))
        assert len({each.refresh_token for each in grants}) == 1

    async def test_theft_ends_the_session_for_both(self, sessions: Sessions, user: User) -> None:
        stolen = (await sessions.open(user, None, NOW)).refresh_token
        thief = await sessions.refresh(stolen, NOW)
        thief = await sessions.refresh(thief.refresh_token, NOW + SECOND)
        assert await refused(sessions, stolen, NOW + 2 * SECOND)
        assert await refused(sessions, thief.refresh_token, NOW + 2 * SECOND)

    async def test_theft_in_one_session_leaves_the_others(self, sessions: Sessions, user: User) -> None:
        stolen = (await sessions.open(user, None, NOW)).refresh_token
        other = await sessions.open(user, None, NOW)
        await sessions.refresh(stolen, NOW)
        assert await refused(sessions, stolen, NOW + timedelta(minutes=1))
        assert not await refused(sessions, other.refresh_token, NOW + timedelta(minutes=1))

    @pytest.mark.parametrize("token", ["", "unknown", "x" * 5000, "\u00e9"])
    async def test_what_we_never_gave_out_is_refused(self, sessions: Sessions, token: str) -> None:
        assert await refused(sessions, token, NOW)

    async def test_the_database_alone_opens_nothing(
        self, sessions: Sessions, user: User, store: SqlStore[SqlTransaction]
    ) -> None:
        grant = await sessions.open(user, None, NOW)
        following = await sessions.refresh(grant.refresh_token, NOW)
        async with store.database.read() as connection:
            rows = (await connection.execute(select(refresh_tokens))).all()
        for row in rows:
            for value in row:
                assert value not in {grant.refresh_token, following.refresh_token}
                assert value not in {grant.refresh_token.encode(), following.refresh_token.encode()}


class TestEnding:
    @pytest.fixture
    async def three(self, sessions: Sessions, user: User) -> list[Grant]:
        return [await sessions.open(user, None, NOW) for _ in range(3)]

    @pytest.mark.parametrize(
        ("scope", "ended"), [("local", [True, False, False]), ("others", [False, True, True]), ("global", [True] * 3)]
    )
    async def test_a_scope_says_which_end(
        self, sessions: Sessions, user: User, three: list[Grant], scope: str, ended: list[bool]
    ) -> None:
        count = await sessions.end(user.id, three[0].session.id, scope, NOW)  # type: ignore[arg-type]  # one of three
        assert count == sum(ended)
        assert [await refused(sessions, grant.refresh_token, NOW) for grant in three] == ended

    async def test_what_has_ended_is_not_ended_again(self, sessions: Sessions, user: User, three: list[Grant]) -> None:
        assert await sessions.end(user.id, three[0].session.id, "local", NOW) == 1
        assert await sessions.end(user.id, three[0].session.id, "local", NOW) == 0
        assert await sessions.end(user.id, None, "global", NOW) == 2

    async def test_nobody_ends_somebody_elses_session(self, sessions: Sessions, three: list[Grant]) -> None:
        assert await sessions.end(UUID(int=1), three[0].session.id, "local", NOW) == 0
        assert not await refused(sessions, three[0].refresh_token, NOW)
