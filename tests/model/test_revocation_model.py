"""The searches of the model of revocation, those that leave nothing out, and the check of what stands in for stores."""

# What stands in for event loop, clock, store and services has their methods, and not all of their types.
# mypy: disable-error-code="override, attr-defined, name-defined, arg-type, assignment"

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from databases import PostgresServer
from revocation_model import (
    BOUNDS,
    CLIENT,
    ISSUER,
    KID,
    LIFETIME,
    MARGIN,
    MONOTONIC_START,
    REPLICAS,
    SUBJECTS,
    ClocksMachine,
    Connection,
    Fate,
    Lane,
    Link,
    Machine,
    Process,
    RestoringMachine,
    Service,
    State,
    StoreClockMachine,
    World,
    date,
    scale,
    search,
)

from ostiary import Revocations
from ostiary._revocations import Names
from ostiary._token import VerifiedToken
from ostiary.errors import Revoked
from ostiary.feed import EVERYTHING, GENESIS, Answer, FeedFault, Kind, Revocation, chain
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation import verifiers
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.services import Services
from ostiary_auth.startup import prepare
from ostiary_auth.storage.store import AuthStore


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch)


@pytest.mark.parametrize(
    "machine",
    [
        Machine,
        RestoringMachine,
        ClocksMachine,
        StoreClockMachine,
    ],
)
def test_promises_are_kept(machine: type[Machine]) -> None:
    search(machine)


def go_on_otherwise(world: World, *, is_away: bool) -> State:
    """Restore a copy, go on otherwise until entries are over, and return what a verifier had followed."""
    world.run(0.2)
    copy = world.database.tables.copy()
    world.revoke(0, (Kind.SESSION, "session-1"), (Kind.SESSION, "session-2"))
    world.run(0.2)
    followed = world.services[0].party.state
    assert followed is world.database.tables.state
    world.links[0] = Link(questions=Fate.IS_LOST if is_away else Fate.ARRIVES)
    world.restore(copy, begin_anew=False)
    for number in range(REPLICAS):
        world.restart_replica(number)
    # Others would show what they have followed, too.
    for number in range(1, len(BOUNDS)):
        world.restart_service(number)
    world.run(0.2)
    # The verifier is told neither of the first, whose number it has, nor of the others, which are over.
    world.revoke(0, (Kind.KEY, "another key"), *((Kind.SESSION, f"session-{number}") for number in range(3, 6)))
    world.run(LIFETIME + MARGIN + 3)
    world.restart_replica(0)
    return followed


def test_a_restored_log_is_replaced_by_a_new_one_as_soon_as_a_verifier_shows_what_it_lacks() -> None:
    with closing(World()) as world:
        go_on_otherwise(world, is_away=False)
        world.run(3)
        assert not world.violations
        assert world.database.tables.state.head.epoch != "epoch-1"
        assert {party.state for party in world.parties} == {world.database.tables.state}


@pytest.mark.xfail(
    strict=True, reason="what has been over for long does not say which log it is of; it is over here, too"
)
def test_a_log_that_went_on_otherwise_is_refused_by_who_was_away_until_its_entries_were_over() -> None:
    with closing(World()) as world:
        followed = go_on_otherwise(world, is_away=True)
        world.links[0] = Link()
        world.run(3)
        assert not world.violations
        assert world.services[0].party.state is followed


@pytest.mark.parametrize("issued", [0.0, 20.0])
@pytest.mark.parametrize("revoked", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize(("pruned", "seconds"), [(0.0, 4.0), (20.0, 4.0), (20.0, LIFETIME + MARGIN + 4)])
def test_what_was_revoked_stays_so_whatever_the_clock_has_shown(
    issued: float, revoked: float, pruned: float, seconds: float
) -> None:
    """The store's clock is wrong when a token is issued, revoked, and forgotten; then it is right."""
    with closing(World(services=1)) as world:
        world.run(0.2)
        for fast, work in (
            (issued, lambda: world.issue(SUBJECTS[0], "session-1")),
            (revoked, lambda: world.revoke(1, (Kind.SESSION, "session-1"))),
        ):
            world.database.set_clock(fast)
            world.run(0.7)
            work()
            world.run(0.1)
        world.database.set_clock(pruned)
        world.run(seconds)
        # Whoever is started knows only what is stored.
        world.restart_service(0)
        world.run(0.7)
        world.database.set_clock(0.0)
        world.run(4)
        world.restart_replica(0)
        world.restart_service(0)
        # Until a token would be over that was issued ahead.
        for _ in range(15):
            world.run(2)
        assert not world.violations, "\n".join(world.violations[:5])


@dataclass(frozen=True)
class Order:
    """In which order two do their statements: some of the one, some of the other, the rest of each."""

    one_begins: bool
    until_turn: int
    until_back: int

    @classmethod
    def all(cls, one: int, other: int) -> "Iterator[Order]":
        for one_begins, first, second in ((True, one, other), (False, other, one)):
            for steps in itertools.product(range(first + 1), range(1, second + 1)):
                yield cls(one_begins, *steps)

    def carry_out(self, world: World, one: Lane, other: Lane) -> None:
        first, second = (one, other) if self.one_begins else (other, one)
        for lane, steps in ((first, self.until_turn), (second, self.until_back)):
            for _ in range(steps):
                lane.step()
                world.run(0.005)
        for lane in (first, second):
            lane.free()
            world.run(0.02)


class TestOrderOfStatements:
    """Somebody begins to accept tokens while a session is revoked."""

    #: Statements of a first question or a replica's start, and of a call that revokes.
    BEGINNING, REVOKING = 5, 7

    def test_a_verifier_asks_for_the_first_time(self) -> None:
        for order in Order.all(self.BEGINNING, self.REVOKING):
            asking = Lane()
            # A replica whose own verifier had to be waited for would know of the revocation by then.
            with closing(World(services=0, first_is_only_asked=True)) as world:
                world.run(0.05)
                world.links[0] = Link(to=0)
                world.lane_of_questions = asking
                world.services.append(Service(world, 0))
                self.revoke_and_check(world, 1, asking, order)

    def test_a_replica_starts(self) -> None:
        for order in Order.all(self.BEGINNING, self.REVOKING):
            starting = Lane()
            with closing(World(services=0, lane_of_start=starting)) as world:
                world.run(0.05)
                self.revoke_and_check(world, 0, starting, order)

    @staticmethod
    def revoke_and_check(world: World, replica: int, beginning: Lane, order: Order) -> None:
        revoking = Lane()
        world.issue("ann", "session")
        world.revoke(replica, (Kind.SESSION, "session"), lane=revoking)
        world.run(0.005)
        order.carry_out(world, beginning, revoking)
        waits_until = world.now + verifiers.REQUERY_SECONDS + 0.1
        while not world.answers and world.now < waits_until:
            world.run(0.02)
        assert not world.violations, order
        assert [answer["complete"] for answer in world.answers] == [True], order
        assert {party.state for party in world.parties} == {world.database.tables.state}, order


@dataclass(frozen=True)
class Log:
    """A log as it may be told: its name, and its revocations with the digests after them."""

    epoch: str
    revocations: tuple[Revocation, ...]

    @property
    def digests(self) -> tuple[bytes, ...]:
        return tuple(itertools.accumulate(self.revocations, chain, initial=GENESIS))

    def answers(self) -> Iterator[Answer]:
        """Yield what may be answered to any question at any time, also when some of it has been deleted."""
        for first, head in itertools.product(range(len(self.revocations) + 1), repeat=2):
            told = self.revocations[first:head]
            for gone in ((), told[:1], told[-1:], told) if told else ((),):
                left = tuple(revocation for revocation in told if revocation not in gone)
                yield Answer(ISSUER, 0, self.epoch, first + 1, head, False, self.digests[head], bool(gone), left, "")


class TestWhatIsApplied:
    """A verifier is told whatever may ever have been told, of its log and of others, in any order."""

    FOLLOWED = tuple(
        Revocation(number + 1, kind, target, 1000)
        for number, (kind, target) in enumerate(
            [(Kind.SESSION, "session"), (Kind.SUBJECT, "ann"), (Kind.TOKEN, "token"), (Kind.ALL, EVERYTHING)]
        )
    )
    #: Goes on otherwise after two.
    FORKED = (*FOLLOWED[:2], *(Revocation(number, Kind.CLIENT, CLIENT, 1000) for number in (3, 4, 5)))
    LOGS = (Log("epoch-1", FOLLOWED), Log("epoch-1", FORKED), Log("epoch-2", FOLLOWED))
    TOLD = tuple((log, answer) for log in LOGS for answer in log.answers())
    TOKENS = tuple(
        VerifiedToken(
            ISSUER,
            subject,
            frozenset(),
            CLIENT,
            name,
            KID,
            session,
            0,
            0,
            1000,
            None,
            frozenset(),
            frozenset(),
            rev,
            {},
        )
        for rev in range(6)
        for subject, name, session in (
            ("ann", "other", "other"),
            ("bob", "token", "other"),
            ("bob", "other", "session"),
        )
    )

    def test_it_goes_on_with_the_log_that_was_followed(self) -> None:
        self.go_on([])

    def go_on(self, applied: list[tuple[Log, Answer]]) -> None:
        revocations = self.told(applied)
        for log, answer in self.TOLD:
            if applied and answer.reset and log is not applied[-1][0] and log.epoch == applied[-1][0].epoch:
                continue  # Which log it is of cannot be seen from it.
            before = self.what_is_known(revocations)
            try:
                revocations.apply(answer, 0.0)
            except FeedFault:
                assert not self.fits(applied, log, answer), answer
                assert self.what_is_known(revocations) == before
                continue
            assert self.fits(applied, log, answer), answer
            now_applied = [*applied, (log, answer)]
            assert self.verdicts(revocations) == self.expected(now_applied)
            # What brings nothing is no reason to go on from there.
            if len(now_applied) < 3 and answer.revocations:
                self.go_on(now_applied)
            revocations = self.told(applied)

    @staticmethod
    def told(applied: list[tuple[Log, Answer]]) -> Revocations:
        revocations = Revocations(lambda: 0.0)
        for _, answer in applied:
            revocations.apply(answer, 0.0)
        return revocations

    def what_is_known(self, revocations: Revocations) -> tuple[object, ...]:
        return revocations.position, revocations._digest, len(revocations), revocations.fresh_at, revocations.version

    @staticmethod
    def fits(applied: list[tuple[Log, Answer]], log: Log, answer: Answer) -> bool:
        if not applied:
            return answer.first == 1 <= answer.head + 1
        followed, last = applied[-1]
        if log.epoch != followed.epoch:
            # A new log, of which all is told, above all that was followed.
            return answer.first == 1 and answer.head > last.head
        known = followed.digests[: last.head + 1]
        goes_on = answer.first == last.head + 1 <= answer.head + 1
        return goes_on and log.epoch == followed.epoch and log.digests[: last.head + 1] == known

    def verdicts(self, revocations: Revocations) -> list[bool]:
        return [self.is_refused(revocations, token) for token in self.TOKENS]

    @staticmethod
    def is_refused(revocations: Revocations, token: VerifiedToken) -> bool:
        try:
            revocations.check(token, partial(Names, token))
        except Revoked:
            return True
        return False

    def expected(self, applied: list[tuple[Log, Answer]]) -> list[bool]:
        known = [revocation for _, answer in applied for revocation in answer.revocations]
        return [any(self.hits(revocation, token) for revocation in known) for token in self.TOKENS]

    @staticmethod
    def hits(revocation: Revocation, token: VerifiedToken) -> bool:
        match revocation.kind:
            case Kind.SESSION:
                return token.session_id == revocation.target
            case Kind.TOKEN:
                return token.token_id == revocation.target
            case Kind.SUBJECT:
                return token.subject == revocation.target and token.log_position < revocation.number
            case _:
                return token.log_position < revocation.number


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuthConfig]:
    if request.param == "SQLite":
        yield AuthConfig(data_dir=tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield AuthConfig(data_dir=tmp_path, database_url=f"{server.url}/{name}")
    server.drop_database(name)


@pytest.fixture
async def store(config: AuthConfig) -> AsyncIterator[AuthStore]:
    """The real store, on both kinds of database."""
    services = Services(config, await prepare(config))
    yield services.store
    await services.close()


class TestStandIn:
    """The store that is stood in for does what the real one does."""

    async def test_it_does_the_same(self, store: AuthStore) -> None:
        assert await asyncio.to_thread(self.use_stand_in) == await self.use(store)

    def use_stand_in(self) -> Sequence[object]:
        with closing(World(services=0)) as world:
            for replica in world.replicas:
                replica.process.kill()
            connection = Connection(world.database, Process(world.loop))
            return world.loop.run_until_complete(self.use(cast("Store", connection)))

    @staticmethod
    async def use(store: Store) -> Sequence[object]:
        """Return what can be seen of what is stored."""
        now, seen = date(MONOTONIC_START), []
        first, second, late = (now + timedelta(seconds=seconds) for seconds in (10, 20, 11 + LIFETIME + MARGIN))
        known, other = (RegisteredVerifier(name, "here", 5, "keys", 3000, second) for name in ("c:known", "c:other"))
        from_before = replace(known, acknowledged=3, keys="others", lease_ms=1000, live_until=first)
        elsewhere = replace(known, replica="there")
        log = RevocationLog(AuditLog(b""), timedelta(seconds=LIFETIME))
        for rows in ((known, replace(other, live_until=first)), (elsewhere,), (from_before,)):
            async with store.write() as transaction:
                await transaction.verifiers.put(rows)
        later = replace(known, acknowledged=7, keys="others", lease_ms=9000, live_until=late)
        for changed in (from_before, later, replace(known, id="c:unknown"), replace(known, replica="nowhere")):
            async with store.write() as transaction:
                await transaction.verifiers.update([changed])
        for targets in (((Kind.SESSION, "a"), (Kind.KEY, "b")), ((Kind.SUBJECT, "c"),)):
            async with store.write() as transaction:
                for kind, target in targets:
                    await log.revoke(transaction, Context(now), kind, target)
        with suppress(ZeroDivisionError):
            async with store.write() as transaction:
                await transaction.verifiers.remove({"c:known"})
                await log.revoke(transaction, Context(now), Kind.ALL, EVERYTHING)
                raise ZeroDivisionError
        for at in (now, first, late):
            async with store.write() as transaction:
                await transaction.prune(at, idle=timedelta(), limit=10)
            async with store.read() as transaction:
                for found in (await transaction.verifiers.live(min(at, first)), await transaction.verifiers.all()):
                    seen += sorted(found, key=lambda row: (row.id, row.replica))
                seen.append(replace(await transaction.revocations.head(), epoch=""))
                for after, head, limit in ((0, 3, 2), (1, 3, 9), (0, 2, 9)):
                    seen += await transaction.revocations.after(after, head, limit)
        async with store.write() as transaction:
            await transaction.verifiers.put([elsewhere, other, replace(other, replica="there")])
        for names, of in (({"c:other"}, "here"), ({"c:known"}, None)):
            async with store.write() as transaction:
                await transaction.verifiers.remove(names, of)
            async with store.read() as transaction:
                seen += sorted(await transaction.verifiers.all(), key=lambda row: (row.id, row.replica))
        return seen
