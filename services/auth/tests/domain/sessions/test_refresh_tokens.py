"""The rules of refresh token rotation, and the service against a model of them."""

import asyncio
import shutil
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from users import new_user

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.clock import CLOCK_MARGIN
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidRefreshToken
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions import refresh_tokens as rules
from ostiary_auth.domain.sessions.model import Grant, RefreshToken, Session, SessionLimits
from ostiary_auth.domain.sessions.refresh_tokens import (
    FREE_ROTATIONS,
    MAX_SUCCESSORS,
    REPLAY_GRACE,
    ROTATION_INTERVAL,
    Verdict,
    decide,
    hash_of,
    may_rotate,
    newest,
    rotation_after,
    successor_of,
)
from ostiary_auth.services import Services
from ostiary_auth.startup import prepare

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)
IDLE = timedelta(hours=1)
ABSOLUTE = timedelta(hours=3)
SECOND = timedelta(seconds=1)
STEPS = (SECOND, timedelta(seconds=31), REPLAY_GRACE, REPLAY_GRACE + SECOND, timedelta(minutes=20), IDLE)
STEPS_BACK = (SECOND, CLOCK_MARGIN, CLOCK_MARGIN + SECOND, timedelta(days=1))
LIMITS = SessionLimits(IDLE, ABSOLUTE)
SESSION = Session(uuid4(), uuid4(), FIRST_PARTY_CLIENT_ID, None, None, START, START, START + ABSOLUTE)
FRESH = RefreshToken(b"1", SESSION.id, START)
USED = replace(FRESH, used_at=START, successor_nonce=b"n", successor_hash=b"2")


def judge(token: RefreshToken, now: datetime, session: Session = SESSION, asked_at: datetime | None = None) -> Verdict:
    return decide(token, session, LIMITS, asked_at or now, now)


class TestDecide:
    def test_a_token_is_used_once(self) -> None:
        assert judge(FRESH, START) is Verdict.ROTATE

    def test_a_client_that_lost_the_answer_gets_it_again(self) -> None:
        assert judge(USED, START + REPLAY_GRACE) is Verdict.REPEAT

    def test_a_late_replay_is_theft(self) -> None:
        assert judge(USED, START + REPLAY_GRACE + SECOND) is Verdict.THEFT

    def test_a_replay_that_had_to_wait_for_us_is_none(self) -> None:
        assert judge(USED, START + 2 * REPLAY_GRACE, asked_at=START + REPLAY_GRACE) is Verdict.REPEAT

    def test_a_use_in_the_future_neither_opens_nor_ends_anything(self) -> None:
        assert judge(USED, START - CLOCK_MARGIN) is Verdict.REPEAT
        assert judge(USED, START - CLOCK_MARGIN - SECOND) is Verdict.REJECT
        assert judge(USED, START - timedelta(days=1)) is Verdict.REJECT

    def test_nothing_continues_a_session_that_has_ended(self) -> None:
        ended = replace(SESSION, ended_at=START)
        assert judge(FRESH, START, ended) is Verdict.REJECT
        assert judge(USED, START, ended) is Verdict.REJECT

    def test_an_idle_session_ends_on_the_second(self) -> None:
        assert judge(FRESH, START + LIMITS.idle - SECOND) is Verdict.ROTATE
        assert judge(FRESH, START + LIMITS.idle) is Verdict.REJECT

    def test_the_absolute_limit_ends_a_busy_session(self) -> None:
        late = replace(FRESH, created_at=START + LIMITS.absolute - SECOND)
        assert judge(late, START + LIMITS.absolute - SECOND) is Verdict.ROTATE
        assert judge(late, START + LIMITS.absolute) is Verdict.REJECT


class TestRate:
    """Of a session that refreshes all the time."""

    def rotated(self, times: list[datetime]) -> int:
        """Return how many of some refreshes give a new token."""
        session, count = SESSION, 0
        for now in times:
            if may_rotate(session, now):
                session = replace(session, next_rotation_at=rotation_after(session, now))
                count += 1
        return count

    def test_many_are_free(self) -> None:
        assert self.rotated([START] * 1000) == FREE_ROTATIONS

    def test_beyond_that_there_is_one_in_a_minute(self) -> None:
        minutes = 6 * 60
        times = [START + number * SECOND for number in range(minutes * 60 + 1)]
        assert self.rotated(times) == FREE_ROTATIONS + minutes

    def test_who_refreshes_once_in_a_minute_always_gets_one(self) -> None:
        times = [START + number * ROTATION_INTERVAL for number in range(10_000)]
        assert self.rotated(times) == len(times)

    def test_a_clock_that_was_put_back_delays_nothing(self) -> None:
        times = [START] * FREE_ROTATIONS
        assert self.rotated([*times, START - timedelta(days=1)]) == FREE_ROTATIONS + 1
        assert self.rotated([*times, START - CLOCK_MARGIN]) == FREE_ROTATIONS

    def test_within_the_grace_the_whole_chain_can_be_followed(self) -> None:
        for step in range(60):
            times = [START] * FREE_ROTATIONS
            times += [START + step * SECOND + number * REPLAY_GRACE / 100 for number in range(101)]
            assert self.rotated(times) < MAX_SUCCESSORS

    def test_a_token_is_kept_meanwhile(self) -> None:
        busy = replace(SESSION, next_rotation_at=START + FREE_ROTATIONS * ROTATION_INTERVAL)
        assert judge(FRESH, START, busy) is Verdict.KEEP
        assert judge(FRESH, START + ROTATION_INTERVAL, busy) is Verdict.ROTATE
        assert judge(FRESH, START + LIMITS.idle, busy) is Verdict.REJECT

    @pytest.mark.parametrize(("idle", "pause"), [(60, 1), (60, 59), (90, 50), (110, 55)])
    def test_who_refreshes_all_the_time_is_never_taken_for_idle(self, idle: int, pause: int) -> None:
        limits = SessionLimits(idle * SECOND, timedelta(days=1))
        busy = START + FREE_ROTATIONS * ROTATION_INTERVAL
        session = replace(SESSION, expires_at=START + limits.absolute, next_rotation_at=busy)
        token, now = FRESH, START
        for _ in range(1000):
            now += pause * SECOND
            verdict = decide(token, session, limits, now, now)
            assert verdict in {Verdict.ROTATE, Verdict.KEEP}
            if verdict is Verdict.ROTATE:
                token = replace(token, created_at=now)
                session = replace(session, next_rotation_at=rotation_after(session, now))


class TestNewest:
    @given(st.integers(0, 10))
    def test_each_is_derived_from_the_one_before(self, steps: int) -> None:
        tokens, chain = ["first"], []
        for step in range(steps):
            nonce = bytes([step])
            chain.append(replace(USED, hash=hash_of(tokens[-1]), successor_nonce=nonce))
            tokens.append(successor_of(tokens[-1], nonce))
        chain.append(replace(FRESH, hash=hash_of(tokens[-1])))
        for start, token in enumerate(tokens):
            assert newest(token, chain[start:]) == tokens[-1]

    def test_a_chain_that_was_not_followed_to_its_end_has_none(self) -> None:
        assert newest("first", [USED, USED]) is None


class Storage:
    """The service on a database, driven from outside of its event loop."""

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner()
        config = AuthConfig(
            data_dir=directory,
            session_idle_ttl=int(IDLE.total_seconds()),
            session_max_ttl=int(ABSOLUTE.total_seconds()),
        )
        self.services = Services(config, self.run(prepare(config)))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self.services.close())
        self.runner.close()

    async def add_user(self) -> User:
        user = new_user(f"{uuid4()}@example.com", at=START)
        async with self.services.store.write() as transaction:
            await transaction.users.add(user)
        return user

    async def open(self, user: User, now: datetime) -> Grant:
        async with self.services.store.write() as transaction:
            return await self.services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, Context(now))

    async def refresh(self, token: str, now: datetime) -> Grant | None:
        try:
            return await self.services.sessions.refresh(token, FIRST_PARTY_CLIENT_ID, Context(now))
        except InvalidRefreshToken:
            return None

    async def replays(self, user: User) -> list[str]:
        """Return the sessions of which the audit log says that a token was replayed."""
        async with self.services.store.read() as transaction:
            entries = await transaction.audit.entries_about(f"user:{user.id}")
        return [str(entry.facts["session_id"]) for entry in entries if entry.event == Event.REFRESH_TOKEN_REPLAYED]


@dataclass
class Chain:
    """The model of a session: its tokens in order, when each was made, and when all but the last were used."""

    id: UUID
    expires_at: datetime
    tokens: list[str]
    made_at: list[datetime]
    used_at: list[datetime] = field(default_factory=list)
    ended: bool = False
    next_rotation_at: datetime | None = None

    def go_on(self, following: str, now: datetime) -> None:
        """Take the answer to the newest token: it is the same again if the session has had too many."""
        session = replace(SESSION, next_rotation_at=self.next_rotation_at)
        if not may_rotate(session, now):
            assert following == self.tokens[-1]
            return
        assert following not in self.tokens
        self.next_rotation_at = rotation_after(session, now)
        self.tokens.append(following)
        self.made_at.append(now)
        self.used_at.append(now)

    def is_over(self, now: datetime) -> bool:
        return self.ended or now >= self.expires_at

    def is_alive(self, now: datetime) -> bool:
        return not self.is_over(now) and now < self.made_at[-1] + IDLE


class RefreshRules(RuleBasedStateMachine):
    """Several sessions of one user; each token ever given out may be presented at any time."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.storage = storage
        self.now = START
        self.user = storage.run(storage.add_user())
        self.chains: list[Chain] = []
        self.thefts: list[str] = []

    def pick(self, number: int) -> Chain:
        return self.chains[number % len(self.chains)]

    def refresh(self, token: str) -> Grant | None:
        return self.storage.run(self.storage.refresh(token, self.now))

    def check_grant(self, chain: Chain, grant: Grant | None) -> str:
        assert grant is not None
        assert grant.session.id == chain.id
        assert grant.session.expires_at == chain.expires_at
        return grant.refresh_token

    @initialize()
    def begin(self) -> None:
        self.open()
        self.open()

    @precondition(lambda self: len(self.chains) < 3)
    @rule()
    def open(self) -> None:
        grant = self.storage.run(self.storage.open(self.user, self.now))
        assert grant.session.expires_at == self.now + ABSOLUTE
        self.chains.append(Chain(grant.session.id, grant.session.expires_at, [grant.refresh_token], [self.now]))

    @rule(step=st.sampled_from(STEPS))
    def let_time_pass(self, step: timedelta) -> None:
        self.now += step

    @rule(step=st.sampled_from(STEPS_BACK))
    def put_the_clock_back(self, step: timedelta) -> None:
        self.now -= step

    @rule(number=st.integers(0, 2), times=st.integers(1, 3))
    def present_the_newest_token(self, number: int, times: int) -> None:
        chain = self.pick(number)
        for _ in range(times):
            grant = self.refresh(chain.tokens[-1])
            if not chain.is_alive(self.now):
                assert grant is None
                return
            following = self.check_grant(chain, grant)
            assert all(following not in each.tokens for each in self.chains if each is not chain)
            chain.go_on(following, self.now)

    @precondition(lambda self: any(chain.used_at for chain in self.chains))
    @rule(number=st.integers(0, 2), age=st.integers(0, 20))
    def present_a_used_token(self, number: int, age: int) -> None:
        used = [chain for chain in self.chains if chain.used_at]
        chain = used[number % len(used)]
        position = max(0, len(chain.used_at) - 1 - age)
        used_at = chain.used_at[position]
        grant = self.refresh(chain.tokens[position])
        if chain.is_over(self.now) or self.now < used_at - CLOCK_MARGIN:
            assert grant is None
        elif self.now <= used_at + REPLAY_GRACE:
            assert self.check_grant(chain, grant) == chain.tokens[-1]
        else:
            self.expect_theft(chain, grant)

    @rule(number=st.integers(0, 2), losses=st.lists(st.booleans(), min_size=8, max_size=8))
    def refresh_in_all_tabs(self, number: int, losses: list[bool]) -> None:
        """Each tab begins with the token that all had, and again with what it got, unless the answer was lost."""
        chain = self.pick(number)
        tabs = [chain.tokens[-1]] * len(losses)
        for _ in range(2):
            for tab, is_lost in enumerate(losses):
                is_newest = tabs[tab] == chain.tokens[-1]
                grant = self.refresh(tabs[tab])
                if not chain.is_alive(self.now):
                    assert grant is None
                    continue
                following = self.check_grant(chain, grant)
                if is_newest:
                    chain.go_on(following, self.now)
                assert following == chain.tokens[-1]
                if not is_lost:
                    tabs[tab] = following

    def expect_theft(self, chain: Chain, grant: Grant | None) -> None:
        assert grant is None
        chain.ended = True
        self.thefts.append(str(chain.id))
        assert not any(map(self.refresh, chain.tokens))

    @precondition(lambda self: len(self.chains) == 3)
    @rule(number=st.integers(0, 2))
    def log_out(self, number: int) -> None:
        chain = self.pick(number)
        sessions = self.storage.services.sessions
        ended = self.storage.run(sessions.end(self.user.id, chain.id, "local", Context(self.now)))
        assert len(ended) == int(chain.is_alive(self.now))
        chain.ended = chain.ended or bool(ended)

    @invariant()
    def the_sessions_alive_are_those_of_the_model(self) -> None:
        found = self.storage.run(self.storage.services.sessions.of_user(self.user.id, self.now))
        alive = {chain.id: chain.expires_at for chain in self.chains if chain.is_alive(self.now)}
        assert {session.id: session.expires_at for session in found} == alive

    def teardown(self) -> None:
        try:
            assert self.storage.run(self.storage.replays(self.user)) == self.thefts
            for chain in self.chains:
                # Of all the tokens of a session, the newest continues it, or none.
                if chain.ended:
                    assert not any(map(self.refresh, chain.tokens[:-1]))
                last = self.refresh(chain.tokens[-1])
                assert (last is not None) is chain.is_alive(self.now)
        finally:
            super().teardown()


@pytest.fixture
def storage(prepared: Any, tmp_path: Path) -> Iterator[Storage]:
    shutil.copytree(prepared.directory, tmp_path, dirs_exist_ok=True)
    storage = Storage(tmp_path)
    yield storage
    storage.close()


def test_rotation_follows_its_rules(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few that sessions reach the limit.
    monkeypatch.setattr(rules, "FREE_ROTATIONS", 5)

    class RulesOnThisStorage(RefreshRules):
        def __init__(self) -> None:
            super().__init__(storage)

    bounds = settings(
        max_examples=25,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(RulesOnThisStorage, settings=bounds)
