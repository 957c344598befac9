"""Revocation against a model of what it promises, whatever the network, the processes and the store do.

Both sides are the real code: `FeedClient` and `Verifier` on the one, on the other the feed's route, the log, the
registry of verifiers, `Prefer: wait` and the background work. Stood in for are the clocks, the network, the store and
the signatures. Time is simulated: it jumps from one thing that happens to the next. All periods are shorter than in
earnest.

Promised is:

1.  A verifier accepts no token later than its `max_staleness` after a revocation that hits it was committed, and none
    at all after a call that revoked it has answered `complete`.
2.  What a verifier has applied it does not forget while a token that it hits may be alive.
3.  Of a subject's, a client's or all tokens exactly those are hit that were issued before.
4.  A verifier that has followed a log goes on with another one only if that begins with higher numbers.
5.  When all is well again, all verifiers come to the log's end, and a call that revokes is `complete`.

In this order: processes on simulated time; the model; the store; the two sides and what is between them; the world
with what must hold in it; and machines that let anything happen there.
"""

# What stands in for event loop, clock, store and services has their methods, and not all of their types.
# mypy: disable-error-code="override, attr-defined, name-defined, arg-type, assignment"

import asyncio
import contextvars
import hashlib
import itertools
import json
import math
import random
import selectors
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import ostiary._feed_client
import ostiary._revocations
from ostiary import KeySet, LocalKeys, Revocations, Verifier, VerifierConfig, _base64url
from ostiary._feed_client import Feed, FeedClient
from ostiary.errors import Expired, NotYetValid, OstiaryError, RevocationStale, Revoked
from ostiary.feed import EVERYTHING, GENESIS, Answer, Kind
from ostiary_auth import background
from ostiary_auth.domain import database_time
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import AuditEntry, AuditHead
from ostiary_auth.domain.clock import Reading, SettledTime, SharedClock
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.database_time import DatabaseTime
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation import feed as feed_module
from ostiary_auth.domain.revocation import log as log_module
from ostiary_auth.domain.revocation import pages, verifiers
from ostiary_auth.domain.revocation.feed import RevocationFeed
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.messages import REVOKED
from ostiary_auth.domain.revocation.model import (
    Entry,
    EntryColumns,
    LoggedRevocation,
    LogHead,
    RegisteredVerifier,
    expiry_of,
)
from ostiary_auth.domain.revocation.receipts import Receipts
from ostiary_auth.domain.revocation.verifiers import Verifiers
from ostiary_auth.routes import prefer_wait
from ostiary_auth.routes.revocation.feed import feed_routes
from ostiary_auth.storage import pruning

ISSUER, AUDIENCE, KID, CLIENT = "https://auth.example", "orders", "key-1", "app"
SUBJECTS = ("ann", "bob")

#: Where simulated time begins, on the monotonic clock and as a date.
MONOTONIC_START, WALL_START = 1000.0, 1_800_000_000.0

#: What one turn of the event loop takes, and how exactly dates are compared.
TURN = 1e-6
DATES_DIFFER = timedelta(microseconds=10)

#: Seconds: a token's life, the verifiers' leeway, and how long revocations are kept beyond a token's life.
LIFETIME, LEEWAY, MARGIN = 8.0, 1.0, 4.0

#: Seconds by which verifiers may be out of date; the last is that of the replicas' own.
BOUNDS = (1.5, 3.0, 6.0)
OWN_BOUND = 4.0

#: Seconds that messages and the store's statements take, and those of a store that is slow.
QUICK = (0.0, 0.0005, 0.004)
SLOW = (0.0, 0.1, 0.5)

#: Seconds after which the store gives up a transaction that waits for a lock, or in which nothing is done.
PATIENCE = 1.0

#: Seconds by which clocks may be fast or slow: those of replicas, which matters nothing, and the store's; and by how
#: little that one may be put back without consequences.
REPLICAS_SKEW = (-86400.0, -2.0, 0.0, 12.0, 86400.0)
STORE_SKEW = (-86400.0, -20.0, -5.0, -1.0, 0.0, 1.0, 5.0, 20.0, 86400.0)
CLOCK_MARGIN = timedelta(seconds=1)

#: How long verifiers are stored that are not live any more.
VERIFIERS_KEPT = timedelta(seconds=2)

REPLICAS = 2

_PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)
_LANE: contextvars.ContextVar["Lane | None"] = contextvars.ContextVar("lane", default=None)


class Clock(selectors.SelectSelector):
    """What an event loop waits with; here waiting takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = MONOTONIC_START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is left that could happen"
        self.now += max(timeout, TURN)
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop on simulated time. What runs in it belongs to processes, which can be stopped and killed."""

    def __init__(self) -> None:
        self._clock = Clock()
        super().__init__(self._clock)
        self.set_task_factory(_new_task)

    def time(self) -> float:
        return self._clock.now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = context or contextvars.copy_context()
        process = context.get(_PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        step = _Step(process, context, partial(callback, *args))
        step.handle = super().call_soon(step, context=context)
        return step.handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = context or contextvars.copy_context()
        process = context.get(_PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        step = _Step(process, context, partial(callback, *args))
        step.handle = timer = super().call_at(when, step, context=context)
        return timer

    def run_in_executor(self, _executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run it here and now: a thread would take its time from the real clock."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - passed on, as a thread's
            future.set_exception(error)
        return future

    def run_for(self, seconds: float) -> None:
        self.call_later(seconds, self.stop)
        self.run_forever()


class _Step:
    """Something that a process does as soon as it may."""

    def __init__(self, process: "Process", context: contextvars.Context, work: Callable[[], object]) -> None:
        self.process, self.context, self._work = process, context, work
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.process.stopped:
            self.process.backlog.append(self)
        elif self.handle is None or not self.handle.cancelled():
            self._work()


def _new_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
    task = asyncio.Task(work, loop=loop, **options)
    process = (options.get("context") or contextvars.copy_context()).get(_PROCESS)
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(process.tasks.pop)
    return task


class Process:
    """A process: it can be stopped for a while, and killed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.stopped = self.dead = False
        self.backlog: list[_Step] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any], lane: "Lane | None" = None) -> None:
        context = self.context.copy()
        context.run(_LANE.set, lane)
        self._loop.create_task(work, context=context)

    def go_on(self) -> None:
        self.stopped = False
        backlog, self.backlog = self.backlog, []
        for step in backlog:
            self._loop.call_soon(step, context=step.context)

    def kill(self) -> None:
        # What is left of it comes to its end without an effect on anything outside.
        self.dead = True
        self.go_on()
        for task in tuple(self.tasks):
            task.cancel()


class Lane:
    """Where something waits before each statement until it is let on."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_free = False

    async def turn(self) -> None:
        if not self._is_free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def step(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)

    def free(self) -> None:
        self._is_free = True
        while self._waiting:
            self.step()


@dataclass
class SimulatedClock:
    """The clocks of a replica's machine."""

    loop: Loop
    #: Seconds by which it is fast.
    fast: float

    def monotonic(self) -> float:
        return self.loop.time()

    def now(self) -> datetime:
        return date(self.loop.time() + self.fast)


def wall(monotonic: float) -> float:
    return WALL_START + monotonic - MONOTONIC_START


def date(monotonic: float) -> datetime:
    return datetime.fromtimestamp(wall(monotonic), UTC)


class QuickKey:
    """In place of a signing key: what it signs can only be read by who knows its one secret."""

    kid = KID

    def sign(self, media_type: str, claims: dict[str, object]) -> str:
        header = {"alg": "RS256", "typ": media_type, "kid": KID}
        signing_input = b".".join(_base64url.encode(json.dumps(part).encode()) for part in (header, claims))
        return (signing_input + b"." + _base64url.encode(self.signature(signing_input))).decode()

    @staticmethod
    def signature(signing_input: bytes) -> bytes:
        return hashlib.sha256(b"secret" + signing_input).digest()


class QuickKeys(KeySet):
    """The keys to verify with."""

    def verify(self, kid: str, signing_input: bytes, signature: bytes) -> None:
        assert (kid, signature) == (KID, QuickKey.signature(signing_input))


KEYS = QuickKeys({KID: cast("Any", None)})
RING = SimpleNamespace(signing=QuickKey(), version=KEYS.version)


@dataclass(eq=False)
class State:
    """The log as it was at some time, with all that it came from."""

    head: LogHead
    at: float
    before: "State | None" = None
    revocation: LoggedRevocation | None = None
    #: When a call that revoked has answered that this is in force.
    complete_at: float | None = None
    past: "frozenset[State]" = field(init=False)

    def __post_init__(self) -> None:
        self.past = (self.before.past if self.before else frozenset()) | {self}


@dataclass(eq=False)
class Token:
    """An access token, and the log as it was when it was issued."""

    text: str
    names: dict[Kind, str]
    issued: State
    begins_at: float
    expires_at: float

    def is_hit(self, state: State) -> bool:
        revocation = state.revocation
        if revocation is None or revocation.target != self.names.get(revocation.kind):
            return False
        # A session or a token is hit whenever it was issued, of all else what was issued before. What a restored log
        # lacks was before all that its new one has.
        is_earlier = self.issued.head.number < state.head.number and state not in self.issued.past
        return revocation.kind in {Kind.SESSION, Kind.TOKEN} or is_earlier


@dataclass
class Tables:
    """What is stored."""

    state: State
    revocations: dict[int, LoggedRevocation] = field(default_factory=dict)
    registered: dict[tuple[str, str], RegisteredVerifier] = field(default_factory=dict)

    def copy(self) -> "Tables":
        return Tables(self.state, dict(self.revocations), dict(self.registered))


class Database:
    """Keeps the tables. Each statement sees what has been committed when it runs."""

    def __init__(self, world: "World") -> None:
        self.world = world
        start = State(LogHead("epoch-1", 0, GENESIS), world.now)
        self.tables = Tables(start)
        self.states = {(0, GENESIS): start}
        self.appending = asyncio.Lock()
        self.keeps_all = False
        #: Seconds by which its clock is fast, when that was changed last, and the latest time that it has shown.
        self.fast, self.set_at = 0.0, -math.inf
        self.latest = datetime.fromtimestamp(0, UTC)
        #: How often, and when last, it was set back to a copy.
        self.restored, self.restored_at = 0, 0.0

    def enter(self, head: LogHead, revocation: LoggedRevocation | None) -> None:
        state = State(head, self.world.now, self.tables.state, revocation)
        self.tables.state = self.states[head.number, head.digest] = state
        if revocation is not None:
            self.tables.revocations[revocation.number] = revocation
        self.world.committed()

    def register(self, rows: Collection[RegisteredVerifier]) -> None:
        self.tables.registered.update({(row.id, row.replica): row for row in rows})

    def remove(self, verifier_ids: Collection[str], replica: str | None) -> None:
        for verifier_id, of in list(self.tables.registered):
            if verifier_id in verifier_ids and replica in {of, None}:
                del self.tables.registered[verifier_id, of]

    @property
    def disturbed_at(self) -> float:
        """When what is known of verifiers was last disturbed: it may be of another time, or their leases by it."""
        return max(self.restored_at, self.set_at)

    def shows(self) -> datetime:
        return date(self.world.now + self.fast)

    def set_clock(self, fast: float) -> None:
        self.fast, self.set_at = fast, self.world.now

    def store_time(self, latest: datetime) -> None:
        self.latest = latest

    def restore(self, copy: Tables) -> None:
        self.tables = copy.copy()
        # Who was connected is not any more.
        self.appending = asyncio.Lock()
        self.restored, self.restored_at = self.restored + 1, self.world.now


class Connection:
    """One process's way to the database. A Store."""

    def __init__(self, database: Database, process: Process) -> None:
        self.database = database
        self._process = process
        self.delays = QUICK
        self.away = False

    async def hop(self) -> None:
        """Let the time pass that a statement takes; what others do comes in between."""
        lane = _LANE.get()
        if lane is not None:
            await lane.turn()
        ends_at = self.database.world.now + PATIENCE
        await asyncio.sleep(self.database.world.random.choice(self.delays))
        if self.away or self._process.dead or self.database.world.now > ends_at:
            raise ConnectionError

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        yield Rows(self)

    follow = read

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        rows = Rows(self)
        try:
            yield rows
            await self.hop()
            rows.commit()
        finally:
            rows.release()
        # The answer may be lost; what was committed is.
        await self.hop()
        for work in rows.afterwards:
            work()

    queue = write

    async def publish(self, message: str) -> None:
        await self.hop()
        self.database.world.publish(message)


class NoAudit:
    """The audit log, which is no matter here."""

    async def lock_head(self) -> AuditHead:
        return AuditHead(0, b"")

    def add(self, entry: AuditEntry) -> None:
        """Leave it out."""


class Rows:
    """One transaction, and the rows of all subjects in it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._database = connection.database
        self._restored = self._database.restored
        self._work: list[Callable[[], None]] = []
        self._head: LogHead | None = None
        self._lock: asyncio.Lock | None = None
        self.afterwards: list[Callable[[], None]] = []

    @property
    def audit(self) -> "NoAudit":
        return NoAudit()

    @property
    def revocations(self) -> "Rows":
        return self

    @property
    def verifiers(self) -> "Rows":
        return self

    @property
    def time(self) -> "Rows":
        return self

    async def read(self) -> Reading:
        await self._hop()
        return Reading(self._database.shows(), self._database.latest)

    async def advance(self, latest: datetime) -> None:
        await self._hop()
        self._work.append(lambda: self._database.store_time(max(self._database.latest, latest)))

    async def put_back(self, latest: datetime) -> None:
        await self._hop()
        self._work.append(lambda: self._database.store_time(latest))

    def on_commit(self, work: Callable[[], None]) -> None:
        self.afterwards.append(work)

    async def _hop(self) -> None:
        await self._connection.hop()
        if self._restored != self._database.restored:
            raise ConnectionError

    def commit(self) -> None:
        if self._restored != self._database.restored:
            raise ConnectionError
        for work in self._work:
            work()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    async def head(self) -> LogHead:
        await self._hop()
        return self._head or self._database.tables.state.head

    async def lock_head(self) -> LogHead:
        await self._acquire()
        return await self.head()

    async def lock(self) -> Reading:
        # One lock stands for all.
        await self._acquire()
        return await self.read()

    async def _acquire(self) -> None:
        if self._lock is None:
            lock = self._database.appending
            async with asyncio.timeout(PATIENCE):
                await lock.acquire()
            self._lock = lock

    def add(self, logged: LoggedRevocation) -> None:
        assert self._lock is not None
        epoch = (self._head or self._database.tables.state.head).epoch
        self._head = head = LogHead(epoch, logged.number, logged.digest)
        self._work += [
            lambda: self._database.enter(head, logged),
            lambda: self._database.world.publish(REVOKED),
        ]

    async def restart(self, epoch: str, number: int) -> list[LoggedRevocation]:
        self._head = head = LogHead(epoch, number, GENESIS)
        self._work += [
            self._database.tables.revocations.clear,
            lambda: self._database.enter(head, None),
            lambda: self._database.world.publish(REVOKED),
        ]
        rows = sorted(self._database.tables.revocations.items())
        return [logged for _, logged in rows if logged.kind is Kind.KEY]

    async def after(self, number: int, head: int, limit: int) -> list[LoggedRevocation]:
        await self._hop()
        rows = sorted(self._database.tables.revocations.items())
        return [logged for at, logged in rows if number < at <= head][:limit]

    async def entries(self, number: int, head: int, limit: int) -> list[Entry]:
        return [
            Entry(logged.number, logged.kind, logged.target, expiry_of(logged.expires_at), logged.digest)
            for logged in await self.after(number, head, limit)
        ]

    async def columns(self, number: int, head: int, span: int) -> AsyncGenerator[EntryColumns, None]:
        found = await self._columns(number, head, span)
        while found is not None:
            # Read ahead, as the store does.
            coming = await self._columns(found.numbers[-1], head, span)
            yield found
            found = coming

    async def _columns(self, number: int, head: int, span: int) -> EntryColumns | None:
        rows = await self.after(number, head, span)
        if not rows:
            return None
        stored = self._database.tables.revocations
        part = [each for each in rows if each.number // span == rows[0].number // span]
        return EntryColumns(
            numbers=[each.number for each in part],
            kinds=[each.kind.value for each in part],
            targets=[each.target for each in part],
            expiries=[expiry_of(each.expires_at) for each in part],
            base=stored[number].digest if number in stored else None,
            digest=part[-1].digest,
        )

    async def put(self, changed: Collection[RegisteredVerifier]) -> None:
        await self._hop()
        rows = tuple(changed)
        self._work.append(lambda: self._database.register(rows))

    async def update(self, changed: Collection[RegisteredVerifier]) -> None:
        await self._hop()
        rows, known = tuple(changed), self._database.tables.registered
        self._work.append(lambda: self._database.register([row for row in rows if (row.id, row.replica) in known]))

    async def all(self) -> list[RegisteredVerifier]:
        await self._hop()
        return list(self._database.tables.registered.values())

    async def live(self, now: datetime) -> list[RegisteredVerifier]:
        await self._hop()
        return [verifier for verifier in self._database.tables.registered.values() if verifier.live_until > now]

    async def remove(self, verifier_ids: Collection[str], replica: str | None = None) -> None:
        await self._hop()
        self._work.append(lambda: self._database.remove(verifier_ids, replica))

    async def prune(self, now: datetime, **_limits: object) -> int:
        await self._hop()
        self._work.append(lambda: self._delete(now))
        return 0

    def _delete(self, now: datetime) -> None:
        tables = self._database.tables
        if self._database.keeps_all:
            return
        tables.revocations = {at: row for at, row in tables.revocations.items() if row.expires_at >= now}
        silent_since = now - VERIFIERS_KEPT
        tables.registered = {name: row for name, row in tables.registered.items() if row.live_until >= silent_since}


class Fate(Enum):
    """What becomes of a message."""

    ARRIVES = auto()
    IS_HELD = auto()
    IS_LOST = auto()


@dataclass(frozen=True)
class Link:
    """A verifier's way to the auth service."""

    #: The replica that it leads to; None for now this one, now that one.
    to: int | None = None
    questions: Fate = Fate.ARRIVES
    answers: Fate = Fate.ARRIVES
    #: Each question arrives at every replica.
    doubles: bool = False
    #: Questions get answers that went this way before.
    mixes_up: bool = False


#: Status, headers and body.
Reply = tuple[int, dict[str, str], bytes]


class KnownRevocations(Revocations):
    """Revocations that say when they have come further, and when they have become fresher."""

    def __init__(
        self, clock: Callable[[], float], on_applied: Callable[[], None], on_fresh: Callable[[], None]
    ) -> None:
        self._on_applied, self._on_fresh = on_applied, on_fresh
        self._is_applying = False
        super().__init__(clock)

    def apply(self, answer: Answer, asked_at: float, *more: Any) -> None:
        self._is_applying = True
        try:
            super().apply(answer, asked_at, *more)
        finally:
            self._is_applying = False
        self._on_applied()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "fresh_at" and self.complete and not self._is_applying:
            self._on_fresh()


class Party:
    """A verifier, and what is known about it."""

    def __init__(self, world: "World", name: str, bound: float, process: Process) -> None:
        self._world = world
        self.name = name
        self.bound = bound
        self.process = process
        self.born_at = world.now
        #: The id under which it is registered.
        self.name_of: Callable[[], str] = lambda: ""
        #: The log as far as it has been applied, and all that has ever been.
        self.state: State | None = None
        self.known: frozenset[State] = frozenset()
        self.revocations = KnownRevocations(world.loop.time, self._on_applied, lambda: world.look_at(self))
        self.in_service = False
        self.is_told_its_lease = False

    def use(self, source: Any) -> None:
        config = VerifierConfig(
            issuer=ISSUER,
            audience=AUDIENCE,
            key_source=LocalKeys(KEYS),
            revocation_source=source,
            leeway=LEEWAY,
        )
        self.verifier = Verifier(config, max_staleness=self.bound, clock=lambda: wall(self._world.now))

    def judge(self, token: Token, bound: float) -> type[OstiaryError] | None:
        """Return what is wrong with a token for who bears revocations of this age."""
        try:
            self.verifier.verify(token.text, now=wall(self._world.now), max_staleness=bound)
        except OstiaryError as error:
            return type(error)
        return None

    @property
    def may_accept(self) -> bool:
        return self.in_service and not self.process.stopped and not self.process.dead

    @property
    def fresh_until(self) -> float:
        return self.revocations.fresh_at + self.bound

    def follows(self, state: State) -> bool:
        """Return whether this is of the log that this verifier knows."""
        return self.state is None or self.state in state.past or state in self.state.past

    def _on_applied(self) -> None:
        position = self.revocations.position
        assert position is not None
        state = self._world.database.states.get((position.number, self.revocations._digest))
        if state is None:
            self._world.report(self, f"applied what never was: {position}")
            return
        is_new = self.state is not None and self.state.head.epoch != state.head.epoch == position.epoch
        if (
            self.state is not None
            and self.state not in state.past
            and not (is_new and self.state.head.number < state.head.number)
        ):
            self._world.report(self, f"followed {self.state.head} and applied {state.head}")
        self.state, self.known = state, self.known | state.past
        self._world.look_at(self)


class Replica:
    """A replica of the auth service. Killed and started anew, it is another one."""

    def __init__(self, world: "World", number: int, lane: Lane | None = None, *, is_only_asked: bool = False) -> None:
        self.world = world
        self.serves = is_only_asked
        self.process = Process(world.loop)
        self.connection = connection = Connection(world.database, self.process)
        self.party = Party(world, f"auth {number}", OWN_BOUND, self.process)
        store = cast("Store", connection)
        self.clock = clock = SharedClock(SimulatedClock(world.loop, world.fast[number]))
        feed = RevocationFeed(store, ISSUER, cast("Any", lambda: RING), Receipts(b""), clock)
        feed.local.revocations = self.party.revocations
        self.party.use(feed.local)
        own_id = f"auth-{world.next_number()}"
        self.party.name_of = lambda: own_id
        self.feed = feed
        self.verifiers = Verifiers(store, feed, connection.publish, own_id, clock)
        self.listener: Callable[[str], None] | None = None
        self.services: Any = SimpleNamespace(
            feed=feed,
            clock=clock,
            settled=SettledTime(clock, timedelta(seconds=LIFETIME + MARGIN)),
            follow_time=self._follow_time,
            verifiers=self.verifiers,
            follow_feed=lambda max_age: feed.refresh_local(
                lambda: self.verifiers.on_local_poll(int(OWN_BOUND * 1000)), max_age
            ),
            store=connection,
            database=SimpleNamespace(is_sqlite=False, listen=self._listen),
            local_keys=SimpleNamespace(use=lambda _ring: None, current=RING),
            keys=SimpleNamespace(load=_done, advance=_done),
            accounts=SimpleNamespace(refunds=SimpleNamespace(pay_all=_done)),
            sessions=SimpleNamespace(limits=SimpleNamespace(idle=timedelta())),
            revoked=asyncio.Event(),
            key_revoked=asyncio.Event(),
            log_replaced=asyncio.Event(),
        )
        self.services.recover = self._recover
        self.services.keep_receipt = _done
        feed.on_replaced = self.services.log_replaced.set
        feed.subscribe(self._on_logged)
        self.revocations = RevocationLog(AuditLog(b""), timedelta(seconds=LIFETIME), self.services.revoked.set)
        self._time = DatabaseTime(store, AuditLog(b""), self.revocations, clock)
        token = SimpleNamespace(require=lambda **_scopes: None, client_id="c")
        anybody = SimpleNamespace(verify=lambda *_args, **_options: token)
        routes = feed_routes(self.services, cast("Any", SimpleNamespace(auth=SimpleNamespace(verifier=anybody))))
        self.endpoints = {method: route.endpoint for route in routes for method in _methods(route)}
        if is_only_asked:
            self.listener = self.verifiers.on_message
        else:
            self.process.spawn(self._run(), lane)

    async def _run(self) -> None:
        work = background.Background(self.services)
        while True:
            # What keeps a replica from starting ends it; it is started again.
            try:
                await work.follow_time()
                await work.follow_feed()
                break
            except Exception:  # noqa: BLE001 - whatever it is
                await asyncio.sleep(0.5)
        self.serves = self.party.in_service = True
        self.world.look_at(self.party)
        await work.run()

    async def _recover(self) -> None:
        """Begin a new log, as `Recovery` does with it sessions and keys."""
        replaced = self.feed.replaced
        if replaced is None:
            return
        context = Context(self.services.clock.now())
        async with self.connection.write() as transaction:
            if (await transaction.revocations.lock_head()).epoch == replaced.epoch:
                await self.revocations.restart(transaction, context, replaced.number)
        self.feed.replaced = None

    def _on_logged(self, logged: Entry) -> None:
        if logged.kind is Kind.ALL:
            self.verifiers.forget_stored()

    async def _follow_time(self) -> None:
        await self._time.follow()
        self.services.settled.observe()

    async def _listen(self, on_message: Callable[[str], None], on_connect: Callable[[], None]) -> None:
        self.listener = on_message
        on_connect()
        await asyncio.Event().wait()

    def tell(self, message: str) -> None:
        if self.listener is not None:
            self.listener(message)

    async def answer(self, question: httpx.Request, reply: Callable[[Reply], None]) -> None:
        headers = [(name.lower(), value) for name, value in question.headers.raw]
        scope = {"type": "http", "method": question.method, "path": "/feed", "headers": headers}
        request = Request({**scope, "query_string": question.url.query})
        try:
            response = await self.endpoints[question.method](request)
        except Exception:  # noqa: BLE001 - any is the same to who has asked
            response = Response(status_code=503)
        reply(
            (
                response.status_code,
                dict(response.headers),
                response.body,
            )
        )

    async def revoke(self, targets: list[tuple[Kind, str]]) -> None:
        """Revoke, and wait for it to be in force."""
        context = Context(self.services.clock.now())
        async with self.connection.write() as transaction:
            revoked = [await self.revocations.revoke(transaction, context, kind, target) for kind, target in targets]
        state = {"revoked": tuple(itertools.chain.from_iterable(revoked))}
        request = Request({"type": "http", "headers": [(b"prefer", b"wait=20")], "state": state})
        states = self.world.database.tables.state.past
        answer = json.loads(
            bytes((await prefer_wait.apply_prefer_wait(self.services, request, Response(status_code=204))).body)
        )
        self.world.answers.append(answer)
        if answer["complete"]:
            # Those before are in force with it.
            self.world.completed([state for state in states if state.head.number <= answer["cursor"]])


class Service:
    """A service with a verifier. Killed and started anew, it is another one."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.process = Process(world.loop)
        self.party = Party(world, f"service {number}", BOUNDS[number], self.process)
        self.party.in_service = self.party.is_told_its_lease = True
        config = Feed(url="http://auth/feed", client_id="c", client_secret="s", name=f"service{number}")
        bounds = {self.party.bound}
        transport = Network(self)
        clock = world.loop.time
        self.follower = FeedClient(
            ISSUER, config, LocalKeys(KEYS), bounds, allow_insecure=True, transport=transport, clock=clock
        )
        self.follower.revocations = self.party.revocations
        self.party.use(self.follower)
        self.process.spawn(self._run())

    async def _run(self) -> None:
        self.party.name_of = lambda: f"c:{self.follower._id}"
        await self.follower.__aenter__()

    def end(self) -> None:
        """End as it should: saying good-bye."""
        self.process.spawn(self.follower.__aexit__())


class Network(httpx.AsyncBaseTransport):
    """Carries a service's questions to the replicas, and their answers back; or does not."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._world = service.world
        #: Answers that have gone this way.
        self._seen: deque[Reply] = deque(maxlen=3)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world = self._world
        if self._service.process.dead:
            raise httpx.ConnectError("killed")
        if request.url.path == "/oauth/token":
            granted = json.dumps({"access_token": "t", "expires_in": 10**6}).encode()
            return httpx.Response(200, stream=httpx.ByteStream(granted))
        link = world.links[self._service.number]
        answered: asyncio.Future[Reply] = world.loop.create_future()
        if link.mixes_up and self._seen:
            world.after_a_moment(partial(_settle, answered, world.random.choice(self._seen)))
        else:
            to = [link.to if link.to is not None else world.random.randrange(REPLICAS)]
            for number in range(REPLICAS) if link.doubles else to:
                world.carry(link.questions, partial(self._ask, number, request, answered))
        status, headers, body = await answered
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

    def _ask(self, number: int, request: httpx.Request, answered: "asyncio.Future[Reply]") -> None:
        replica = self._world.replicas[number]
        if not replica.serves or replica.process.dead:
            if not answered.done():
                answered.set_exception(httpx.ConnectError("refused"))
            return
        lane = self._world.lane_of_questions
        replica.process.spawn(replica.answer(request, partial(self._answer, answered)), lane)

    def _answer(self, answered: "asyncio.Future[Reply]", reply: Reply) -> None:
        self._seen.append(reply)
        link = self._world.links[self._service.number]
        self._world.carry(link.answers, partial(_settle, answered, reply))


def _settle(answered: "asyncio.Future[Reply]", reply: Reply) -> None:
    if not answered.done():
        answered.set_result(reply)


def _methods(route: Route) -> list[str]:
    return sorted(route.methods or ())


async def _done(*_: object) -> None:
    """Have nothing to do."""


class World:
    """Two replicas of the auth service, three services, and all that is between them."""

    def __init__(
        self,
        seed: int = 0,
        services: int = len(BOUNDS),
        *,
        first_is_only_asked: bool = False,
        lane_of_start: Lane | None = None,
    ) -> None:
        self.loop = Loop()
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self._numbers = itertools.count()
        self.violations: list[str] = []
        self.tokens: list[Token] = []
        self.held: list[Callable[[], None]] = []
        self.messages_get_lost = False
        self.links = [Link() for _ in BOUNDS]
        #: Seconds by which the clocks of the replicas' machines are fast.
        self.fast = [0.0] * REPLICAS
        #: Where replicas wait with their answers to questions.
        self.lane_of_questions: Lane | None = None
        #: What calls that revoked have answered.
        self.answers: list[dict[str, Any]] = []
        self.database = Database(self)
        self.replicas = [Replica(self, 0, is_only_asked=first_is_only_asked), Replica(self, 1, lane_of_start)]
        self.services = [Service(self, number) for number in range(services)]
        self.ended: list[Service] = []

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def parties(self) -> list[Party]:
        return [each.party for each in (*self.replicas, *self.services)]

    def next_number(self) -> int:
        return next(self._numbers)

    def run(self, seconds: float) -> None:
        self.loop.run_for(seconds)
        self.look()

    def close(self) -> None:
        for each in (*self.replicas, *self.services, *self.ended):
            each.process.kill()
        self.loop.run_for(1)
        self.loop.close()

    # What happens in it.

    def after_a_moment(self, work: Callable[[], None], context: contextvars.Context | None = None) -> None:
        self.loop.call_later(self.random.choice(QUICK), work, context=context or contextvars.Context())

    def carry(self, fate: Fate, deliver: Callable[[], None]) -> None:
        if fate is Fate.ARRIVES:
            self.after_a_moment(deliver)
        elif fate is Fate.IS_HELD:
            self.held.append(deliver)

    def publish(self, message: str) -> None:
        if not self.messages_get_lost:
            for replica in self.replicas:
                self.after_a_moment(partial(replica.tell, message), replica.process.context)

    def issue(self, subject: str, session: str, replica: int = 0) -> Token:
        state, number = self.database.tables.state, self.next_number()
        now = self.replicas[replica].clock.now().timestamp()
        names = {
            Kind.SESSION: session,
            Kind.TOKEN: f"token-{number}",
            Kind.SUBJECT: subject,
            Kind.CLIENT: CLIENT,
            Kind.ALL: EVERYTHING,
        }
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "client_id": CLIENT,
            "sid": session,
            "jti": names[Kind.TOKEN],
            "iat": now,
            "exp": now + LIFETIME,
            "rev": state.head.number,
        }
        token = Token(QuickKey().sign("at+jwt", claims), names, state, now, now + LIFETIME)
        self.tokens.append(token)
        self.look()
        return token

    def revoke(self, replica: int, *targets: tuple[Kind, str], lane: Lane | None = None) -> None:
        self.replicas[replica].process.spawn(_revoke(self.replicas[replica], list(targets)), lane)

    def restore(self, copy: Tables, *, begin_anew: bool) -> None:
        self.database.restore(copy)
        if begin_anew:
            command = Process(self.loop)
            connection = cast("Store", Connection(self.database, command))
            told = RevocationLog(AuditLog(b""), timedelta(seconds=LIFETIME))
            command.spawn(_restart(told, connection, Context(date(self.now))))
        else:
            self.tokens = [token for token in self.tokens if token.issued in copy.state.past]

    def restart_replica(self, number: int) -> None:
        self.replicas[number].process.kill()
        self.replicas[number] = Replica(self, number)

    def restart_service(self, number: int) -> None:
        self.services[number].process.kill()
        self.services[number] = Service(self, number)

    def end_service(self, number: int) -> None:
        self.services[number].end()
        self.ended.append(self.services[number])
        self.services[number] = Service(self, number)

    def mend(self) -> None:
        self.messages_get_lost = False
        self.links = [Link() for _ in BOUNDS]
        for each in (*self.replicas, *self.services, *self.ended):
            if each.process.stopped:
                each.process.go_on()
        for replica in self.replicas:
            replica.connection.away, replica.connection.delays = False, QUICK

    # What must hold.

    def check_liveness(self) -> None:
        self.run(max(BOUNDS) / 2 + 1.5)
        self.revoke(0, (Kind.SESSION, "none"))
        self.run(0.5)
        state = self.database.tables.state
        for party in self.parties:
            if party.state is not state:
                self.report(party, f"has not come to {state.head.number}")
            if party.fresh_until < self.now:
                self.report(party, "is not up to date")
        # Those that were killed have said nothing; for them the lease counts.
        gone = {name for name, _ in self.database.tables.registered} - {party.name_of() for party in self.parties}
        self.run(max(BOUNDS) if gone else verifiers.REQUERY_SECONDS)
        if state.complete_at is None:
            self.violations.append(f"{state.head.number} is not complete")

    def report(self, party: Party, what: str) -> None:
        self.violations.append(f"{self.now:.6f} {party.name}: {what}")

    def committed(self) -> None:
        """Look again when each verifier must have noticed."""
        for bound in {*BOUNDS, OWN_BOUND}:
            self.loop.call_later(bound + 2 * TURN, self.look, context=contextvars.Context())

    def completed(self, states: list[State]) -> None:
        for state in states:
            state.complete_at = self.now
        self.look()

    def look(self) -> None:
        # Of what has been over for long there is nothing to be seen.
        self.tokens = [token for token in self.tokens if wall(self.now) < token.expires_at + LEEWAY + 1]
        for party in (*self.parties, *(service.party for service in self.ended)):
            self.look_at(party)

    def look_at(self, party: Party) -> None:
        if not party.may_accept:
            return
        self._check_what_is_known(party)
        self._check_registration(party)
        for token in self.tokens:
            self._check_verdict(party, token)

    def _check_what_is_known(self, party: Party) -> None:
        for state in self.database.tables.state.past - party.known:
            if state.at < party.revocations.fresh_at:
                self.report(
                    party, f"as of {party.revocations.fresh_at:.6f} without {state.head.number} of {state.at:.6f}"
                )

    def _check_registration(self, party: Party) -> None:
        """Whoever may be accepting tokens is stored, with its lease."""
        if party.fresh_until < self.now or party.born_at <= self.database.disturbed_at:
            return
        rows = [row for (name, _), row in self.database.tables.registered.items() if name == party.name_of()]
        until = date(party.fresh_until + self.database.fast)
        if not any(row.lease_ms >= party.bound * 1000 and row.live_until >= until - DATES_DIFFER for row in rows):
            self.report(party, f"accepts until {date(party.fresh_until)}, and is registered as {rows}")

    def _check_verdict(self, party: Party, token: Token) -> None:  # noqa: C901 - a list of checks
        tables = self.database.tables
        expected: type[OstiaryError] | None = None
        if wall(self.now) >= token.expires_at + LEEWAY:
            expected = Expired
        elif wall(self.now) < token.begins_at - LEEWAY:
            expected = NotYetValid
        elif any(token.is_hit(state) for state in party.known):
            expected = Revoked
        elif self.now - party.revocations.fresh_at > party.bound:
            expected = RevocationStale
        found = party.judge(token, party.bound)
        if found is RevocationStale and party.is_told_its_lease:
            # Whoever bears more all of a sudden gets no more than what the auth service has been told.
            found = party.judge(token, 2 * party.bound)
        if found is not expected and party.follows(token.issued):
            self.report(party, f"{token.names}: {found}, and not {expected}")
        if found is None:
            for state in tables.state.past:
                if not token.is_hit(state):
                    continue
                if self.now - state.at > party.bound:
                    self.report(party, f"accepts what {state.revocation} hit at {state.at}")
                if state.complete_at is not None and party.born_at > self.database.disturbed_at:
                    self.report(party, f"accepts what {state.revocation} hit, complete at {state.complete_at}")


async def _restart(log: RevocationLog, store: Store, context: Context) -> None:
    async with store.write() as transaction:
        await log.restart(transaction, context)


async def _revoke(replica: Replica, targets: list[tuple[Kind, str]]) -> None:
    try:
        await replica.revoke(targets)
    except Exception:  # noqa: BLE001 - who called gets an error, and is promised nothing
        return


class Machine(RuleBasedStateMachine):
    """Lets things happen in a world, and looks."""

    EXAMPLES = 80

    def __init__(self) -> None:
        super().__init__()
        self.world = World(0)
        self.sessions = itertools.count()

    def other_sessions(self, count: int) -> list[tuple[Kind, str]]:
        return [(Kind.SESSION, f"other-{next(self.sessions)}") for _ in range(count)]

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world.random.seed(seed)
        self.world.run(0.2)

    @rule(seconds=st.sampled_from((0.003, 0.05, 0.4, 1.4, 2.9, 5.9)))
    def let_time_pass(self, seconds: float) -> None:
        self.world.run(seconds)

    @precondition(lambda self: len(self.world.tokens) < 8)
    @rule(subject=st.sampled_from(SUBJECTS))
    def issue(self, subject: str) -> None:
        self.world.issue(subject, f"session-{next(self.sessions)}")

    @precondition(lambda self: self.world.tokens)
    @rule(
        number=st.integers(0, 7),
        replica=st.integers(0, REPLICAS - 1),
        kind=st.sampled_from(Kind),
        more=st.integers(0, 3),
        pause=st.sampled_from((0.0, 0.003, 0.02)),
    )
    def revoke(self, number: int, replica: int, kind: Kind, more: int, pause: float) -> None:
        token = self.world.tokens[-1 - number % len(self.world.tokens)]
        target = (kind, token.names.get(kind, "another key"))
        self.world.revoke(replica, target, *self.other_sessions(more))
        self.world.run(pause)

    @rule(replica=st.integers(0, REPLICAS - 1))
    def wait_for_what_was_revoked(self, replica: int) -> None:
        self.world.revoke(replica)

    @rule(
        number=st.integers(0, len(BOUNDS) - 1),
        link=st.builds(
            Link,
            to=st.sampled_from((0, 1, None)),
            questions=st.sampled_from(Fate),
            answers=st.sampled_from(Fate),
            doubles=st.booleans(),
            mixes_up=st.booleans(),
        ),
    )
    def change_link(self, number: int, link: Link) -> None:
        self.world.links[number] = link

    @rule(number=st.integers(0, len(BOUNDS) - 1))
    def mend_link(self, number: int) -> None:
        self.world.links[number] = Link()

    @precondition(lambda self: self.world.held)
    @rule(number=st.integers(0, 20), again=st.booleans())
    def let_through(self, number: int, again: bool) -> None:
        held = self.world.held
        deliver = held[number % len(held)]
        if not again:
            held.remove(deliver)
        deliver()

    @rule(number=st.integers(0, REPLICAS + len(BOUNDS) - 1))
    def stop_or_go_on(self, number: int) -> None:
        process = [*self.world.replicas, *self.world.services][number].process
        if process.stopped:
            # Somebody may ask before all else.
            process.go_on()
            self.world.look()
        else:
            process.stopped = True

    @rule(number=st.integers(0, REPLICAS - 1))
    def restart_replica(self, number: int) -> None:
        self.world.restart_replica(number)

    @rule(number=st.integers(0, len(BOUNDS) - 1))
    def restart_service(self, number: int) -> None:
        self.world.restart_service(number)

    @rule(number=st.integers(0, len(BOUNDS) - 1))
    def end_service(self, number: int) -> None:
        self.world.end_service(number)

    @rule(lost=st.booleans())
    def lose_messages(self, lost: bool) -> None:
        self.world.messages_get_lost = lost

    @rule(number=st.integers(0, REPLICAS - 1), delays=st.sampled_from((QUICK, SLOW)), away=st.booleans())
    def trouble_the_store(self, number: int, delays: tuple[float, ...], away: bool) -> None:
        connection = self.world.replicas[number].connection
        connection.delays, connection.away = delays, away

    @invariant()
    def promises_are_kept(self) -> None:
        assert not self.world.violations, "\n".join(self.world.violations[:5])

    def teardown(self) -> None:
        try:
            if not self.world.violations:
                self.world.mend()
                self.world.check_liveness()
            assert not self.world.violations, "\n".join(self.world.violations[:5])
        finally:
            self.world.close()


class ClocksMachine(Machine):
    """In its world the clocks of the replicas' machines are wrong by whatever they may be."""

    EXAMPLES = 30

    @rule(number=st.integers(0, REPLICAS - 1), fast=st.sampled_from(REPLICAS_SKEW))
    def set_clock(self, number: int, fast: float) -> None:
        self.world.fast[number] = fast
        self.world.restart_replica(number)


class StoreClockMachine(ClocksMachine):
    """In its world the store's clock is set anew, too. What may be forgotten then is looked at a token's life later."""

    @rule(fast=st.sampled_from(STORE_SKEW))
    def set_clock_of_store(self, fast: float) -> None:
        self.world.database.set_clock(fast)

    @rule(seconds=st.sampled_from((LIFETIME, LIFETIME + MARGIN + 4)))
    def let_much_time_pass(self, seconds: float) -> None:
        self.world.run(seconds)


class RestoringMachine(Machine):
    """In its world the store is set back to a copy at some time."""

    EXAMPLES = 40

    def __init__(self) -> None:
        super().__init__()
        # What follows when entries are over is another matter: see below.
        self.world.database.keeps_all = True

    @precondition(lambda self: not self.world.database.restored)
    @rule(
        lost=st.integers(1, 3),
        follows=st.sampled_from((0.0, 0.02, 0.3)),
        begin_anew=st.booleans(),
        restarted=st.sets(st.integers(0, REPLICAS - 1)),
        more=st.integers(-1, 2),
    )
    def restore_a_copy(self, *, lost: int, follows: float, begin_anew: bool, restarted: set[int], more: int) -> None:
        """Revoke, go back to before, and on to about the number that there was."""
        world = self.world
        copy = world.database.tables.copy()
        world.revoke(0, *self.other_sessions(lost))
        world.run(follows)
        world.restore(copy, begin_anew=begin_anew)
        for number in sorted(restarted):
            world.restart_replica(number)
        world.revoke(1, *self.other_sessions(lost + more))
        world.run(0.05)


def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "EXPIRY_MARGIN", timedelta(seconds=MARGIN))
    monkeypatch.setattr(log_module, "KEYS_HELD", timedelta(seconds=2 * LIFETIME))
    monkeypatch.setattr(ostiary._feed_client, "MAX_ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(ostiary._revocations, "MIN_RETENTION", LIFETIME)
    monkeypatch.setattr(ostiary._revocations, "RETENTION_MARGIN", MARGIN)
    monkeypatch.setattr(feed_module, "MAX_EVENTS", 2)
    monkeypatch.setattr(feed_module, "TAIL", 2)
    monkeypatch.setattr(feed_module, "PAGE_NUMBERS", 4)
    monkeypatch.setattr(pages, "PAGE_NUMBERS", 4)
    monkeypatch.setattr(verifiers, "STORED_AHEAD", 4.0)
    monkeypatch.setattr(verifiers, "PROLONGED_BEFORE", 3.0)
    monkeypatch.setattr(verifiers, "MARGIN", 2.0)
    monkeypatch.setattr(pruning, "VERIFIERS_KEPT", VERIFIERS_KEPT)
    monkeypatch.setattr(background, "PRUNE_SECONDS", 3.0)
    monkeypatch.setattr(background, "FOLLOW_SECONDS", 0.5)
    monkeypatch.setattr(background, "ADVANCE_SECONDS", 1e9)  # of keys, of which there is one
    monkeypatch.setattr(database_time, "CLOCK_MARGIN", CLOCK_MARGIN)
    monkeypatch.setattr(database_time, "STORED_EVERY", timedelta(seconds=0.5))


def search(machine: type[Machine]) -> None:
    bounds = settings(
        max_examples=machine.EXAMPLES,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        # A schedule is shown as it was found: to make it smaller takes minutes.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounds)
