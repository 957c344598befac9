"""Since when is a revocation in force everywhere? Never said too early, and not later than verifiers make it."""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from databases import PostgresServer
from sqlalchemy.exc import SQLAlchemyError

from ostiary.feed import Kind
from ostiary_auth.background import Background
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import TooManyVerifiers
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation import verifiers as verifiers_module
from ostiary_auth.domain.revocation.messages import ACKNOWLEDGED, WANTED
from ostiary_auth.domain.revocation.model import LOCAL_KEYS, InForce, RegisteredVerifier
from ostiary_auth.domain.revocation.verifiers import MARGIN, NO_LEASE_MS, PROLONGED_BEFORE, STORED_AHEAD, Verifiers
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.storage.revocation.verifiers import SqlVerifiers
from ostiary_auth.system_clock import SystemClock

MINUTE = 60_000
SOON = 10.0
LONG = 600.0
KEYS = "the-published-keys"

#: What only PostgreSQL can do: replicas that send each other messages.
on_postgres = pytest.mark.parametrize(
    "template", [pytest.param("prepared_on_postgres", marks=pytest.mark.docker)], indirect=True
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a query take as long as it does on a busy machine, also for calls that do not wait."""
    monkeypatch.setattr(verifiers_module, "MIN_QUERY_SECONDS", SOON)


class Replica:
    """A replica's account of verifiers, and the one revocation that everybody waits for."""

    def __init__(self, services: Services, verifiers: Verifiers | None = None) -> None:
        self.services = services
        self.verifiers = verifiers or services.verifiers

    async def heard(
        self, verifier: str, acknowledged: int = 0, lease_ms: int | None = MINUTE, keys: str = KEYS
    ) -> None:
        await self.verifiers.on_poll(verifier, acknowledged, keys, lease_ms)

    async def revoke(self) -> int:
        """Revoke something, and return its number."""
        context = Context(datetime.now(UTC))
        async with self.services.store.write() as transaction:
            (number,) = await self.services.revocations.revoke(transaction, context, Kind.SESSION, "1")
        await self.services.feed.refresh()
        return number

    async def state(self, number: int, age: float = 0.0) -> InForce:
        """Return how far a revocation has come that was committed so many seconds ago."""
        return await self.verifiers.in_force(number, time.monotonic() - age, 0)

    async def is_in_force(self, number: int, age: float = 0.0) -> bool:
        return (await self.state(number, age)).complete

    def wait(self, number: int, seconds: float = LONG, patience: float = SOON) -> "asyncio.Task[InForce]":
        """Wait for a revocation. The test gives up before the wait ends by itself: it has to be woken."""
        in_force = self.verifiers.in_force(number, time.monotonic(), seconds)
        return asyncio.create_task(asyncio.wait_for(in_force, patience))

    async def stored(self) -> dict[str, RegisteredVerifier]:
        """Return the row of each verifier that polls one replica."""
        async with self.services.store.read() as transaction:
            return {row.id: row for row in await transaction.verifiers.all()}


class Gate:
    """A store that writes when the test says so."""

    def __init__(self, store: Store) -> None:
        self.read, self.follow, self.queue = store.read, store.follow, store.queue
        self.open = asyncio.Event()
        self._store = store
        self._reached = asyncio.Event()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        self._reached.set()
        await self.open.wait()
        async with self._store.write() as transaction:
            yield transaction

    def shut(self) -> None:
        self.open.clear()
        self._reached.clear()

    async def reached(self) -> None:
        """Wait until somebody wants to write."""
        async with asyncio.timeout(SOON):
            await self._reached.wait()


class SteppedClock(SystemClock):
    """The system's clocks, put forward by the test."""

    def __init__(self) -> None:
        self.stepped = 0.0

    def step(self, seconds: float) -> None:
        self.stepped += seconds

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.stepped)

    def monotonic(self) -> float:
        return super().monotonic() + self.stepped


def with_clock(services: Services, clock: SteppedClock) -> Verifiers:
    return Verifiers(services.store, services.feed, services.database.publish, "own", clock)


class Messages:
    """Messages between replicas that arrive at once, unless they are lost."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.receivers: list[Callable[[str], None]] = []
        self._joined: list[Verifiers] = []

    async def publish(self, message: str) -> None:
        self.sent.append(message)
        for receive in self.receivers:
            receive(message)

    def join(self, services: Services) -> Replica:
        own_id = f"auth-{len(self._joined)}"
        verifiers = Verifiers(services.store, services.feed, self.publish, own_id, SystemClock())
        self._joined.append(verifiers)
        self.receivers.append(verifiers.on_message)
        return Replica(services, verifiers)

    async def close(self) -> None:
        for verifiers in self._joined:
            await verifiers.close()


@pytest.fixture
def replica(services: Services) -> Replica:
    return Replica(services)


@pytest.fixture
async def start(config: AuthConfig, own: ServiceSecrets) -> AsyncIterator[Callable[[], Awaitable[Services]]]:
    """Start more replicas on the same database."""
    started = []

    async def start_one() -> Services:
        services = Services(config, own)
        services.local_keys.use(await services.keys.load())
        started.append(services)
        return services

    yield start_one
    for services in started:
        await services.close()


@pytest.fixture
async def pair(
    services: Services, start: Callable[[], Awaitable[Services]]
) -> AsyncIterator[tuple[Messages, Replica, Replica]]:
    """Two replicas, and the messages between them."""
    messages = Messages()
    yield messages, messages.join(services), messages.join(await start())
    await messages.close()


@pytest.fixture
async def second(start: Callable[[], Awaitable[Services]]) -> Replica:
    return Replica(await start())


@pytest.fixture
def database_away(
    services: Services, config: AuthConfig, request: pytest.FixtureRequest
) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Keep everybody from the database for a while."""

    @asynccontextmanager
    async def away_sqlite() -> AsyncIterator[None]:
        file = Path(config.data_dir / "auth.db")
        file.rename(file.with_suffix(".away"))
        file.mkdir()
        yield
        file.rmdir()
        file.with_suffix(".away").rename(file)

    @asynccontextmanager
    async def away_postgres() -> AsyncIterator[None]:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = str(config.database().url.database)
        await asyncio.to_thread(server.close_to_all, name)
        yield
        await asyncio.to_thread(server.open_to_all, name)

    return away_sqlite if services.database.is_sqlite else away_postgres


class TestRegistry:
    async def test_a_verifier_is_stored_before_it_is_answered(self, replica: Replica) -> None:
        before = datetime.now(UTC)
        await replica.heard("orders", 7, lease_ms=20_000)
        verifier = (await replica.stored())["orders"]
        assert (verifier.acknowledged, verifier.keys, verifier.lease_ms) == (7, KEYS, 20_000)
        # However its answer is delayed, it may be accepting tokens until then.
        lease = timedelta(seconds=20 + STORED_AHEAD)
        assert before + lease <= verifier.live_until <= datetime.now(UTC) + lease

    async def test_many_at_once_are_all_stored(self, replica: Replica) -> None:
        await asyncio.gather(*(replica.heard(f"orders-{number}") for number in range(200)))
        assert len(await replica.stored()) == 200

    async def test_not_every_question_is_stored(self, replica: Replica) -> None:
        await replica.heard("orders", 0)
        before = await replica.stored()
        for number in range(1, 4):
            await replica.heard("orders", number)
        assert await replica.stored() == before

    async def test_what_others_have_to_know_is_stored(self, replica: Replica) -> None:
        await replica.heard("orders", 0, MINUTE)
        await replica.heard("orders", 1, MINUTE, keys="other-keys")
        # Nobody's answer depends on it, so no poll waits for it.
        await until(lambda: replica.verifiers._stored["orders"].keys == "other-keys")
        assert (await replica.stored())["orders"].keys == "other-keys"
        # Also if it is stored as live for that long already.
        await replica.heard("orders", 1, MINUTE + 1, keys="other-keys")
        assert (await replica.stored())["orders"].lease_ms == MINUTE + 1

    async def test_it_is_stored_again_before_it_counts_as_gone(self, services: Services) -> None:
        """Ahead of time, and not while it polls."""
        clock = SteppedClock()
        replica = Replica(services, with_clock(services, clock))
        await replica.heard("orders")
        first = (await replica.stored())["orders"].live_until
        clock.step(STORED_AHEAD - PROLONGED_BEFORE - 2.0)
        await replica.verifiers.maintain()
        assert (await replica.stored())["orders"].live_until == first
        clock.step(2.0)
        await replica.heard("orders")
        assert (await replica.stored())["orders"].live_until == first
        await replica.verifiers.maintain()
        assert (await replica.stored())["orders"].live_until >= first + timedelta(seconds=clock.stepped)

    async def test_when_that_fails_for_long_a_poll_waits_for_it(self, services: Services) -> None:
        clock = SteppedClock()
        gate = Gate(services.store)
        gate.open.set()
        verifiers = Verifiers(gate, services.feed, services.database.publish, "own", clock)
        replica = Replica(services, verifiers)
        await replica.heard("orders")
        gate.shut()
        clock.step(STORED_AHEAD - MARGIN - 2.0)
        await replica.heard("orders")
        clock.step(2.0)
        poll = asyncio.create_task(replica.heard("orders"))
        await gate.reached()
        assert not poll.done()
        gate.open.set()
        await poll
        live_until = (await replica.stored())["orders"].live_until
        assert live_until >= clock.now() + timedelta(milliseconds=MINUTE)

    async def test_when_its_lease_is_over_its_row_is_deleted(self, services: Services) -> None:
        clock = SteppedClock()
        replica = Replica(services, with_clock(services, clock))
        await replica.heard("orders", 0, 30_000)
        clock.step(20.0)
        # Its lease counts from here on.
        await replica.heard("orders", 0, 30_000)
        await replica.heard("profile", 0, MINUTE)
        clock.step(25.0)
        await replica.verifiers.maintain()
        assert set(await replica.stored()) == {"orders", "profile"}
        clock.step(5.0)
        await replica.verifiers.maintain()
        assert set(await replica.stored()) == {"profile"}
        await replica.heard("orders", 0, 30_000)
        assert set(await replica.stored()) == {"orders", "profile"}

    async def test_one_that_says_a_shorter_lease_may_still_go_by_the_longer_one(self, services: Services) -> None:
        clock = SteppedClock()
        replica = Replica(services, with_clock(services, clock))
        await replica.heard("orders", 0, MINUTE)
        clock.step(1.0)
        await replica.heard("orders", 0, 2_000)
        clock.step(50.0)
        await replica.verifiers.maintain()
        assert set(await replica.stored()) == {"orders"}
        clock.step(9.0)
        await replica.verifiers.maintain()
        assert await replica.stored() == {}

    async def test_a_replica_that_ends_leaves_behind_how_long_each_may_accept(self, services: Services) -> None:
        clock = SteppedClock()
        replica = Replica(services, with_clock(services, clock))
        await replica.verifiers.on_local_poll(15_000)
        heard: dict[str, tuple[datetime, datetime]] = {}
        for name in ("orders", "profile"):
            before = clock.now()
            await replica.heard(name, 0, 30_000)
            heard[name] = before, clock.now()
            clock.step(10.0)
        await replica.verifiers.deregister()
        live_until = {name: row.live_until for name, row in (await replica.stored()).items()}
        assert live_until.keys() == {"orders", "profile"}
        lease, rounding = timedelta(seconds=30), timedelta(milliseconds=100)
        for name, (before, after) in heard.items():
            assert before + lease - rounding < live_until[name] < after + lease + rounding

    async def test_without_a_lease_it_has_one_for_those_who_wait(self, replica: Replica) -> None:
        await replica.heard("orders", lease_ms=None)
        assert (await replica.stored())["orders"].lease_ms == NO_LEASE_MS

    async def test_a_verifier_that_cannot_be_stored_is_not_answered(
        self, replica: Replica, database_away: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        await replica.heard("known")
        await replica.services.database.close()
        async with database_away():
            for _ in range(2):
                with pytest.raises((SQLAlchemyError, OSError)):
                    await replica.heard("orders")
            # Of whom that is stored, nothing has to be.
            await replica.heard("known")
        await replica.heard("profile")
        assert set(await replica.stored()) == {"known", "orders", "profile"}

    async def test_there_is_a_limit(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifiers_module, "MAX_VERIFIERS", 2)
        await replica.heard("orders", lease_ms=0)
        await replica.heard("profile")
        with pytest.raises(TooManyVerifiers):
            await replica.heard("billing")
        assert set(await replica.stored()) == {"orders", "profile"}
        await replica.heard("profile", 1)
        # One that has not asked for long makes room.
        await replica.verifiers.maintain()
        await replica.heard("billing")
        with pytest.raises(TooManyVerifiers):
            await replica.heard("orders")

    async def test_who_leaves_is_not_stored_any_more(self, replica: Replica) -> None:
        await replica.heard("orders")
        await replica.heard("profile")
        await replica.verifiers.remove("orders")
        assert set(await replica.stored()) == {"profile"}
        await replica.verifiers.remove("unknown")
        await replica.heard("orders")
        assert set(await replica.stored()) == {"orders", "profile"}

    async def test_who_leaves_while_it_is_being_stored_is_not_stored_after(self, replica: Replica) -> None:
        gate = Gate(replica.services.store)
        verifiers = Verifiers(gate, replica.services.feed, replica.services.database.publish, "own", SystemClock())
        there = Replica(replica.services, verifiers)
        questions = [asyncio.create_task(there.heard("orders"))]
        await gate.reached()
        questions.append(asyncio.create_task(there.heard("profile")))
        leaving = asyncio.create_task(verifiers.remove("orders"))
        await asyncio.sleep(0)  # it is next in the queue, and goes as far as it can
        gate.open.set()
        await asyncio.gather(*questions, leaving)
        assert set(await replica.stored()) == {"profile"}

    async def test_a_replica_is_a_verifier_itself_until_it_ends(self, replica: Replica) -> None:
        await replica.verifiers.on_local_poll(MINUTE)
        ((verifier_id, own),) = (await replica.stored()).items()
        assert verifier_id.startswith("auth-")
        assert (own.keys, own.lease_ms) == (LOCAL_KEYS, MINUTE)
        await replica.verifiers.deregister()
        assert await replica.stored() == {}


class TestInForce:
    async def test_where_nobody_verifies_it_is_in_force_at_once(self, replica: Replica) -> None:
        state = await replica.state(await replica.revoke())
        assert (state.complete, state.acknowledged_by) == (True, 0)

    async def test_it_is_when_all_have_acknowledged_it(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        # Who waits is told, and does not find out by asking again.
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 60.0)
        await replica.heard("orders", 0)
        await replica.heard("profile", 0)
        number = await replica.revoke()
        waiting = replica.wait(number)
        assert await replica.state(number) == InForce(0, complete=False, after_ms=None)
        await replica.heard("orders", number)
        assert await replica.state(number) == InForce(1, complete=False, after_ms=None)
        assert not waiting.done()
        await replica.heard("profile", number)
        found = await waiting
        assert (found.acknowledged_by, found.complete) == (2, True)
        assert found.after_ms is not None
        assert 0 < found.after_ms < SOON * 1000

    async def test_what_came_before_is_no_acknowledgement(self, replica: Replica) -> None:
        first, second = await replica.revoke(), await replica.revoke()
        await replica.heard("orders", first)
        assert await replica.is_in_force(first)
        assert not await replica.is_in_force(second)

    async def test_one_that_has_come_further_has_it_too(self, replica: Replica) -> None:
        number = await replica.revoke()
        await replica.heard("orders", number + 5)
        state = await replica.state(number)
        assert (state.acknowledged_by, state.complete) == (1, True)

    async def test_one_that_has_vanished_holds_it_up_for_its_lease_and_not_longer(self, replica: Replica) -> None:
        await replica.heard("orders", 0, 20_000)
        await replica.heard("profile", 0, MINUTE)
        number = await replica.revoke()
        await replica.heard("profile", number, MINUTE)
        assert not await replica.is_in_force(number, age=19.0)
        found = await replica.state(number, age=20.0)
        assert (found.acknowledged_by, found.complete) == (1, True)
        assert found.after_ms is not None
        assert found.after_ms >= 20_000

    async def test_who_waits_is_told_when_the_lease_is_over(self, replica: Replica) -> None:
        heard_at = time.monotonic()
        await replica.heard("orders", 0, 80)
        number = await replica.revoke()
        found = await replica.wait(number)
        assert (found.acknowledged_by, found.complete) == (0, True)
        assert time.monotonic() >= heard_at + 0.08

    async def test_the_lease_that_counts_is_the_last_one_said(self, replica: Replica) -> None:
        await replica.heard("orders", 0, 20_000)
        await replica.heard("orders", 0, MINUTE)
        assert not await replica.is_in_force(await replica.revoke(), age=30.0)

    async def test_without_a_lease_it_counts_for_half_a_minute(self, replica: Replica) -> None:
        await replica.heard("orders", 0, lease_ms=None)
        number = await replica.revoke()
        assert not await replica.is_in_force(number, age=25.0)
        assert await replica.is_in_force(number, age=30.0)

    async def test_one_that_leaves_holds_nobody_up(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 0.05)
        await replica.heard("orders", 0)
        number = await replica.revoke()
        waiting = replica.wait(number)
        assert not await replica.is_in_force(number)
        await replica.verifiers.remove("orders")
        assert (await waiting).complete

    async def test_one_that_has_not_asked_for_longer_than_it_may_accept_holds_nobody_up(
        self, services: Services, second: Replica
    ) -> None:
        """Its lease counts from its last question, and not from each revocation anew."""
        clock = SteppedClock()
        replica = Replica(services, with_clock(services, clock))
        await replica.heard("orders", 0, 30_000)
        clock.step(29.0)
        await replica.heard("profile", 0, 30_000)
        number = await replica.revoke()
        assert not await replica.is_in_force(number)
        await replica.heard("profile", number, 30_000)
        assert not await replica.is_in_force(number)
        clock.step(1.0)
        state = await replica.state(number)
        assert (state.acknowledged_by, state.complete) == (1, True)
        # The other replica knows it as soon as this one has noticed.
        second.verifiers._clock = clock
        number = await replica.revoke()
        await replica.heard("profile", number, 30_000)
        replica.verifiers.on_message(f"{WANTED}{number}")
        await replica.verifiers._write()
        assert not (await second.verifiers.in_force(number, clock.monotonic(), 0)).complete
        await replica.verifiers.maintain()
        state = await second.verifiers.in_force(number, clock.monotonic(), 0)
        assert (state.acknowledged_by, state.complete) == (1, True)

    async def test_one_that_vanished_together_with_its_replica_holds_it_up_a_little_longer(
        self, services: Services, second: Replica
    ) -> None:
        clock = SteppedClock()
        second.verifiers._clock = clock
        killed = Replica(services, with_clock(services, clock))
        await killed.heard("orders", 0, 30_000)
        number = await second.revoke()
        clock.step(30.0 + STORED_AHEAD - 5.0)
        assert not (await second.verifiers.in_force(number, clock.monotonic(), 0)).complete
        clock.step(5.0)
        assert (await second.verifiers.in_force(number, clock.monotonic(), 0)).complete

    async def test_who_waits_is_told_when_the_lease_since_the_last_question_is_over(self, replica: Replica) -> None:
        await replica.heard("orders", 0, 150)
        await asyncio.sleep(0.1)
        number = await replica.revoke()
        found = await replica.wait(number)
        assert found.complete
        assert found.after_ms is not None
        assert found.after_ms < 150

    async def test_the_wait_ends_when_its_time_is_up(self, replica: Replica) -> None:
        await replica.heard("orders", 0)
        number = await replica.revoke()
        assert await replica.wait(number, seconds=0.05) == InForce(0, complete=False, after_ms=None)

    async def test_the_replica_itself_knows_what_its_log_does(self, replica: Replica, second: Replica) -> None:
        await second.services.feed.refresh()
        await second.verifiers.on_local_poll(MINUTE)
        # Whoever waits there has the log looked at.
        state = await second.state(await replica.revoke())
        assert (state.acknowledged_by, state.complete) == (1, True)

    async def test_when_the_service_ends_whoever_waits_is_told_how_far_it_has_come(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 60.0)
        await replica.heard("orders", 0)
        number = await replica.revoke()
        await replica.heard("profile", number)
        waiting = replica.wait(number, 60.0)
        for _ in range(3):
            assert not await replica.is_in_force(number)
        replica.services.stop()
        async with asyncio.timeout(SOON):
            for waiter in (waiting, replica.wait(number, 60.0)):
                assert await waiter == InForce(1, complete=False, after_ms=None)

    async def test_not_everybody_can_wait_at_a_time(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifiers_module, "MAX_WAITERS", 2)
        await replica.heard("orders", 0)
        number = await replica.revoke()
        waiting = [replica.wait(number) for _ in range(5)]
        assert [(await waiter).complete for waiter in waiting[2:]] == [False] * 3
        assert not any(waiter.done() for waiter in waiting[:2])
        await replica.heard("orders", number)
        assert [(await waiter).complete for waiter in waiting[:2]] == [True] * 2
        # Now there is room again.
        number = await replica.revoke()
        later = replica.wait(number)
        assert not await replica.is_in_force(number)
        await replica.heard("orders", number)
        assert (await later).complete

    async def test_many_wait_at_once_and_for_different_numbers(self, replica: Replica) -> None:
        await replica.heard("orders", 0)
        numbers = [await replica.revoke() for _ in range(3)]
        waiting = [[replica.wait(number) for _ in range(5)] for number in numbers]
        for number, waiters in zip(numbers, waiting, strict=True):
            assert not any(waiter.done() for waiter in waiters)
            await replica.heard("orders", number)
            assert all([(await waiter).complete for waiter in waiters])


class TestReplicas:
    async def test_one_that_asks_another_replica_counts(self, replica: Replica, second: Replica) -> None:
        await second.heard("orders", 0)
        number = await replica.revoke()
        assert not await replica.is_in_force(number)
        assert await replica.is_in_force(number, age=MINUTE / 1000)
        await second.verifiers.remove("orders")
        assert await replica.is_in_force(number)

    async def test_after_a_restart_those_that_live_are_still_known(
        self, replica: Replica, start: Callable[[], Awaitable[Services]]
    ) -> None:
        await replica.heard("orders", 0, 20_000)
        number = await replica.revoke()
        await replica.services.close()
        restarted = Replica(await start())
        assert not await restarted.is_in_force(number)
        assert not await restarted.is_in_force(number, age=19.0)
        assert await restarted.is_in_force(number, age=20.0)
        await restarted.heard("orders", number)
        assert await restarted.is_in_force(number)

    async def test_who_waits_asks_the_others_and_they_say_how_far_theirs_are(
        self, pair: tuple[Messages, Replica, Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 60.0)
        messages, here, there = pair
        await there.heard("orders", 0)
        number = await here.revoke()
        # Before anybody asked ...
        await there.heard("orders", number)
        assert (await there.stored())["orders"].acknowledged == 0
        assert (await here.wait(number)).complete
        # ... and after.
        number = await here.revoke()
        waiting = here.wait(number)
        await until(lambda: messages.sent.count(f"{WANTED}{number}") == 1)
        await there.heard("orders", number)
        assert (await waiting).complete
        assert ACKNOWLEDGED in messages.sent

    @pytest.mark.parametrize("lost", ["request", "response"])
    async def test_a_lost_message_between_replicas_only_delays_the_waiting_call(
        self, pair: tuple[Messages, Replica, Replica], monkeypatch: pytest.MonkeyPatch, lost: str
    ) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 0.05)
        messages, here, there = pair
        deaf = there if lost == "request" else here
        messages.receivers.remove(deaf.verifiers.on_message)
        await there.heard("orders", 0)
        number = await here.revoke()
        waiting = here.wait(number)
        await until(lambda: len(messages.sent) > 0)
        await there.heard("orders", number)
        if lost == "request":
            # It is sent again; a response is not needed.
            messages.receivers.append(there.verifiers.on_message)
        assert (await waiting).complete

    async def test_messages_that_are_none_are_nothing(self, replica: Replica) -> None:
        await replica.heard("orders", 1)
        for message in ("", "wanted:", "wanted:x", "wanted:-1", "wanted:1.5", "something else", "revoked"):
            replica.verifiers.on_message(message)
        assert replica.verifiers._wanted == 0

    async def test_one_that_leaves_through_another_replica_holds_nobody_up(
        self, replica: Replica, second: Replica
    ) -> None:
        await replica.heard("orders", 0)
        await second.verifiers.remove("orders")
        replica.verifiers.on_message(ACKNOWLEDGED)
        assert await replica.is_in_force(await replica.revoke())

    async def test_one_that_has_left_does_not_come_back(self, pair: tuple[Messages, Replica, Replica]) -> None:
        _, here, there = pair
        await here.heard("orders", 0)
        await here.heard("orders", await here.revoke())
        # From here on it asks the other replica.
        await there.heard("orders", 1)
        await there.verifiers.remove("orders")
        here.verifiers.on_message(f"{WANTED}1")
        await here.verifiers._write()
        assert await there.stored() == {}
        assert await there.is_in_force(await there.revoke())

    async def test_one_that_leaves_while_acknowledgements_are_shared_does_not_come_back(
        self, pair: tuple[Messages, Replica, Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, here, _ = pair
        await here.heard("orders", 0)
        await here.heard("orders", await here.revoke())
        update = SqlVerifiers.update

        async def update_what_is_removed(self: SqlVerifiers, changed: Collection[RegisteredVerifier]) -> None:
            await self.remove({"orders"})
            await update(self, changed)

        monkeypatch.setattr(SqlVerifiers, "update", update_what_is_removed)
        here.verifiers.on_message(f"{WANTED}1")
        await here.verifiers._write()
        assert await here.stored() == {}

    async def test_a_replica_that_has_nothing_to_tell_says_nothing(
        self, pair: tuple[Messages, Replica, Replica]
    ) -> None:
        messages, here, there = pair
        await here.heard("orders", 0)
        await there.heard("profile", 1)
        messages.sent.clear()
        here.verifiers.on_message(f"{WANTED}1")
        await here.verifiers._write()
        assert messages.sent == []

    async def test_the_longest_lease_said_anywhere_counts(self, replica: Replica, second: Replica) -> None:
        await replica.heard("orders", 0, 1_000)
        await second.heard("orders", 0, MINUTE)
        assert not await replica.is_in_force(await replica.revoke(), age=30.0)

    async def test_what_it_has_told_any_replica_counts(self, pair: tuple[Messages, Replica, Replica]) -> None:
        messages, here, there = pair
        await here.heard("orders", 0)
        await here.heard("orders", 1)
        # From here on it asks the other replica.
        await there.heard("orders", 2)
        here.verifiers.on_message(f"{WANTED}2")
        await until(lambda: ACKNOWLEDGED in messages.sent)
        for replica in (here, there):
            state = await replica.state(2)
            assert (state.acknowledged_by, state.complete) == (1, True)


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until something is so."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


@on_postgres
class TestMessages:
    """Two replicas that hear each other through PostgreSQL."""

    @pytest.fixture
    async def listening(
        self, services: Services, start: Callable[[], Awaitable[Services]]
    ) -> AsyncIterator[tuple[Replica, Replica]]:
        replicas = (Replica(services), Replica(await start()))
        tasks = [asyncio.create_task(Background(replica.services).run()) for replica in replicas]
        async with asyncio.timeout(SOON):
            while not all(replica.verifiers._changes for replica in replicas):
                await services.database.publish(ACKNOWLEDGED)
                await asyncio.sleep(0.01)
        yield replicas
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def test_a_revocation_is_known_everywhere_at_once(self, listening: tuple[Replica, Replica]) -> None:
        here, there = listening
        number = await here.revoke()
        await until(lambda: there.services.feed.number == number)

    async def test_an_acknowledgement_on_another_replica_is_known_here(
        self, listening: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 60.0)
        here, there = listening
        for _ in range(5):
            await there.heard("orders", 0)
            number = await here.revoke()
            waiting = here.wait(number)
            assert not await here.is_in_force(number)
            await there.heard("orders", number)
            assert (await waiting).complete

    async def test_one_that_leaves_there_is_not_waited_for_here(
        self, listening: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 60.0)
        here, there = listening
        await there.heard("orders", 0)
        number = await here.revoke()
        waiting = here.wait(number)
        assert not await here.is_in_force(number)
        await there.verifiers.remove("orders")
        assert (await waiting).complete

    async def test_replicas_acknowledge_what_they_have_looked_at(self, listening: tuple[Replica, Replica]) -> None:
        here, there = listening
        for replica in listening:
            await replica.verifiers.on_local_poll(MINUTE)
        found = await here.wait(await here.revoke())
        assert (found.acknowledged_by, found.complete) == (2, True)
        await there.verifiers.deregister()
        assert (await here.wait(await here.revoke())).acknowledged_by == 1

    async def test_without_hearing_anything_it_takes_a_second_longer(
        self, listening: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, there = listening
        monkeypatch.setattr(here.verifiers, "on_message", lambda _message: None)
        await there.heard("orders", 0)
        number = await here.revoke()
        waiting = here.wait(number)
        assert not await here.is_in_force(number)
        await there.heard("orders", number)
        found = await waiting
        assert found.complete
        assert found.after_ms is not None
        assert found.after_ms < 5_000


class TestEnding:
    """A replica ends while it stores verifiers."""

    async def test_it_leaves_though_others_are_being_stored(self, replica: Replica) -> None:
        gate = Gate(replica.services.store)
        gate.open.set()
        verifiers = Verifiers(gate, replica.services.feed, replica.services.database.publish, "own", SystemClock())
        await verifiers.on_local_poll(MINUTE)
        gate.shut()
        questions = [asyncio.create_task(verifiers.on_poll("orders", 0, KEYS, MINUTE))]
        await gate.reached()
        questions.append(asyncio.create_task(verifiers.on_poll("profile", 0, KEYS, MINUTE)))
        await asyncio.sleep(0)  # it is next in the queue, and goes as far as it can
        gate.open.set()
        await verifiers.deregister()
        await asyncio.gather(*questions, return_exceptions=True)
        assert "own" not in await replica.stored()

    async def test_a_message_that_comes_last_leaves_nothing_undone(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complaints: list[object] = []
        monkeypatch.setattr(sys, "unraisablehook", complaints.append)
        replica.verifiers.on_message(f"{WANTED}1")
        await replica.verifiers.close()
        gc.collect()
        assert complaints == []


class NeverAnswers:
    """A store that is there, and does not answer."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        await asyncio.Event().wait()
        yield cast("Transaction", None)

    write = queue = follow = read


class TestDatabaseAway:
    async def test_it_answers_that_it_does_not_know(
        self, replica: Replica, database_away: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        await replica.heard("orders", 0)
        number = await replica.revoke()
        await replica.heard("orders", number)
        assert await replica.is_in_force(number)
        await replica.services.database.close()
        async with database_away():
            assert await replica.state(number) == InForce(1, complete=False, after_ms=None)
            assert not await replica.is_in_force(number, age=3600.0)
        assert await replica.is_in_force(number)

    async def test_one_that_does_not_answer_keeps_nobody_longer_than_they_want_to_wait(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifiers_module, "MIN_QUERY_SECONDS", 0.01)
        await services.feed.refresh()
        verifiers = Verifiers(NeverAnswers(), services.feed, services.database.publish, "own", SystemClock())
        async with asyncio.timeout(SOON):
            state = await verifiers.in_force(0, time.monotonic(), 0.05)
        assert not state.complete

    async def test_who_waits_is_told_when_it_is_back(
        self,
        replica: Replica,
        database_away: Callable[[], AbstractAsyncContextManager[None]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(verifiers_module, "REQUERY_SECONDS", 0.05)
        number, printed = await replica.revoke(), ""
        await replica.services.database.close()
        async with database_away():
            waiting = replica.wait(number, patience=60.0)

            def has_failed() -> bool:
                nonlocal printed
                printed += capsys.readouterr().out
                return "reading verifiers failed" in printed

            await until(has_failed)
            assert not waiting.done()
        assert (await waiting).complete
