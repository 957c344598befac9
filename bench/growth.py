"""What grows with what: each figure at ten, a hundred, a thousand times as many of something.

people       The auth service with a thousand to a million users, each with an open session, on PostgreSQL: login,
             refresh, renewal of a browser's session, list of sessions, verification and logout, one at a time.
people_on_sqlite  The same on a file, up to a hundred thousand.
revocations  A thousand to a million live revocations, on PostgreSQL: the start of the auth service, a new verifier
             until it is up to date, what it costs the auth service the first and the second time, and verification.
routes       A gateway with ten to ten thousand routes: start, memory, requests, and the slowest request while the
             routes file is loaded again.
verifiers    One to ten thousand verifiers that follow one auth service: idle, and on a revocation.
connections  A gateway with 64 to 20 000 open connections: memory, and requests on 64 of them.

A row is one size; its times are median and 99th percentile, its costs CPU time of the measured process by request. The
measured process has one core; the load, PostgreSQL and an nginx as upstream have the other. Results are printed and
written to `bench/results/growth.json`. Takes a quarter of an hour.

    python bench/growth.py [--quick] [part ...]
"""

import asyncio
import itertools
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from multiprocessing import get_context
from pathlib import Path

import population
from auth import BROWSERS, open_browsers
from common import (
    HOST,
    PASSWORD,
    Answer,
    Caller,
    Connection,
    Place,
    Process,
    Repeating,
    Row,
    Service,
    connect,
    cpu_seconds,
    drive,
    log_in,
    login,
    measure,
    memory,
    milliseconds,
    on,
    percentile,
    post_json,
    read,
    request,
    sign_up,
    versions,
)
from gateway import KINDS, OTHER_FILES, Setup, connections, orders, raised_file_limit, running_setup, services
from postgres import new_database
from revocation import Follower, expect_ended, feed_token, logout, spread, until

from ostiary import Feed, Verifier, VerifierConfig
from ostiary_auth.config import AuthConfig

#: Limit for the whole run, in seconds.
LIMIT_SECONDS = 1500

#: Accounts that make requests; each logs in a few times.
ACCOUNTS = 32

#: Seconds between two looks at an event loop.
TICK_SECONDS = 0.002

#: Seconds between two looks at the load while a routes file is loaded, and until the new routes must be there.
LOOK_SECONDS = 0.05
RELOAD_SECONDS = 60.0

LIBRARIES = ("ostiary", "ostiary-auth", "ostiary-gateway", "asyncpg", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    people: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)
    people_on_sqlite: Sequence[int] = (1_000, 10_000, 100_000)
    revocations: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)
    routes: Sequence[int] = (10, 100, 1_000, 10_000)
    verifiers: Sequence[int] = (1, 10, 100, 1_000, 10_000)
    connections: Sequence[int] = (64, 1_000, 10_000, 20_000)
    requests: int = 200
    seconds: float = 3.0
    wait_seconds: float = 10.0


QUICK = Scale(
    people=(100, 1_000),
    people_on_sqlite=(100, 1_000),
    revocations=(100, 1_000),
    routes=(10, 100),
    verifiers=(1, 10),
    connections=(64, 200),
    requests=20,
    seconds=1.0,
    wait_seconds=2.0,
)


@dataclass(slots=True)
class Calls:
    """Requests of one kind, one at a time: their times, and the CPU time that they cost."""

    server: Process
    connection: Connection
    rows: dict[str, Row] = field(default_factory=dict)

    async def ask(self, name: str, requests: Sequence[bytes]) -> list[Answer]:
        """Send requests one after the other."""
        answers, times = [], []
        busy = self.server.cpu_seconds()
        for each in requests:
            sent_at = time.perf_counter()
            answer = await self.connection.ask(each)
            times.append(answer.at - sent_at)
            answers.append(answer)
        busy = self.server.cpu_seconds() - busy
        self.rows[name] = {**milliseconds(times), "cpu_ms": round(busy / len(requests) * 1000, 2)}
        return answers


# People.


def people(scale: Scale) -> Row:
    """Measure the auth service on PostgreSQL with more and more users."""
    place = Place.apart()
    with new_database(place.load) as url:
        return growing_people(scale, scale.people, url)


def people_on_sqlite(scale: Scale) -> Row:
    return growing_people(scale, scale.people_on_sqlite, None)


def growing_people(scale: Scale, sizes: Sequence[int], url: str | None) -> Row:
    place, rows = Place.apart(), dict[str, object]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = AuthConfig(data_dir=Path(folder), database_url=url)
        server = on_database(Path(folder), url)
        with on(place.server):
            stack.enter_context(server.running())
        stack.enter_context(on(place.load))
        emails = asyncio.run(sign_up(server.port, ACCOUNTS))
        there = 0
        for size in sizes:
            asyncio.run(population.add_people(config, size - there))
            asyncio.run(population.analyze(config))
            there = size
            browsers = asyncio.run(open_browsers(config.data_dir, url))
            rows[str(size)] = asyncio.run(each_kind(server, emails, browsers, scale.requests))
    return rows


def on_database(folder: Path, url: str | None) -> Service:
    return Service("auth", folder, OSTIARY_AUTH_DATABASE_URL=url) if url else Service("auth", folder)


async def each_kind(server: Service, emails: Sequence[str], browsers: Sequence[Caller], count: int) -> Row:
    """Measure requests of each kind, one at a time."""
    (connection,) = await connect(server.port, 1)
    calls = Calls(server, connection)
    asking = itertools.cycle(emails)
    logins = await calls.ask("login", [login(next(asking), PASSWORD) for _ in range(count)])
    tokens = [read(answer)["refresh_token"] for answer in logins]
    refreshed = await calls.ask("refresh", [post_json("/auth/refresh", {"refresh_token": each}) for each in tokens])
    bearers = [read(answer)["access_token"] for answer in refreshed]
    renewals = [browser.request() for browser in itertools.islice(itertools.cycle(browsers), min(count, BROWSERS))]
    for answer in await calls.ask("renewal", renewals):
        read(answer)
    for name, path in (("list_of_sessions", "/auth/sessions"), ("verification", "/auth/me")):
        asked = [request("GET", path, b"", f"Authorization: Bearer {bearer}") for bearer in bearers]
        for answer in await calls.ask(name, asked):
            read(answer)
    for answer in await calls.ask("logout", [logout(bearer) for bearer in bearers]):
        expect_ended(answer)
    connection.close()
    return dict(calls.rows)


# Live revocations.


def live_revocations(scale: Scale) -> Row:
    """Measure the start of the auth service, and new verifiers, with more and more live revocations."""
    place, rows = Place.apart(), dict[str, object]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = stack.enter_context(new_database(place.load))
        config = AuthConfig(data_dir=Path(folder), database_url=url)
        server = on_database(Path(folder), url)
        # The first start makes the tables.
        with on(place.load), server.running():
            (email,) = asyncio.run(sign_up(server.port, 1))
        there = 0
        for size in scale.revocations:
            with on(place.load):
                asyncio.run(population.add_revocations(config, size - there))
                asyncio.run(population.analyze(config))
            there = size
            rows[str(size)] = with_revocations(place, server, email)
    return rows


def with_revocations(place: Place, server: Service, email: str) -> Row:
    with ExitStack() as stack:
        with on(place.server):
            seconds = stack.enter_context(server.running())
        row: Row = {"auth_start_seconds": round(seconds, 2), "auth_memory_mb": round(server.memory(), 1)}
        stack.enter_context(on(place.load))
        ((answer),) = asyncio.run(log_in(server.port, [email]))
        for name in ("first", "second"):
            busy = server.cpu_seconds()
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                follow = partial(new_verifier, server.port, str(server.data_dir), answer["access_token"])
                figures = pool.submit(follow).result()
            row[f"{name}_verifier"] = {**figures, "auth_cpu_seconds": round(server.cpu_seconds() - busy, 2)}
    return row


def new_verifier(port: int, folder: str, token: str) -> Row:
    """Start a verifier in this process; return how long it took to be up to date, and what it takes."""
    return asyncio.run(follow_feed(port, Path(folder), token))


async def follow_feed(port: int, folder: Path, token: str) -> Row:
    url = f"http://{HOST}:{port}"
    feed = Feed(
        url=f"{url}/feed",
        client_id="ostiary-verifiers",
        secret_file=str(folder / "feed-secret"),
        name=f"growth-{secrets.token_hex(4)}",
    )
    config = VerifierConfig(
        issuer="http://localhost:8080", audience="ostiary", jwks_url=f"{url}/.well-known/jwks.json", feed=feed
    )
    before, busy, started_at = memory(os.getpid()), cpu_seconds(os.getpid()), time.perf_counter()
    stalls = [0.0]

    async def look() -> None:
        while True:
            looked_at = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            stalls.append(time.perf_counter() - looked_at - TICK_SECONDS)

    looking = asyncio.create_task(look())
    async with Verifier(config) as verifier:
        while not verifier.ready:  # noqa: ASYNC110 - readiness has no event
            await asyncio.sleep(TICK_SECONDS)
        ready_at = time.perf_counter()
        looking.cancel()
        busy = cpu_seconds(os.getpid()) - busy
        verifier.verify(token)
        taken = memory(os.getpid(), "VmHWM") - before
        started = time.perf_counter_ns()
        for _ in range(10_000):
            verifier.verify(token)
        each = (time.perf_counter_ns() - started) / 10_000
    return {
        "seconds": round(ready_at - started_at, 2),
        "cpu_seconds": round(busy, 2),
        "longest_stall_ms": round(max(stalls) * 1000, 1),
        "peak_mb": round(taken / 1e6, 1),
        "verification_us": round(each / 1000, 2),
    }


# Routes.


def many_routes(scale: Scale) -> Row:
    """Measure gateways with more and more routes."""
    place, rows = Place.apart(), dict[str, object]()
    with running_setup(place.load) as setup:
        for count in scale.routes:
            rows[str(count)] = with_routes(place, setup, count, scale)
    return rows


def with_routes(place: Place, setup: Setup, count: int, scale: Scale) -> Row:
    number = count // len(KINDS)
    gateway = setup.gateway(services(number, setup.upstream))
    queries = [
        request("GET", f"/service-0/items/{secrets.token_hex(4)}", b"", setup.bearer) for _ in range(scale.requests * 5)
    ]
    with ExitStack() as stack:
        with on(place.server):
            started = stack.enter_context(gateway.running())
        stack.enter_context(on(place.load))
        row: Row = {"start_seconds": round(started, 2), "memory_mb": round(gateway.memory(), 1)}
        row["request"] = asyncio.run(one_by_one(gateway, queries))
        row["reload"] = asyncio.run(reloaded(gateway, queries[0], number, setup.upstream))
    return row


async def one_by_one(gateway: Service, queries: Sequence[bytes]) -> Row:
    (connection,) = await connect(gateway.port, 1)
    calls = Calls(gateway, connection)
    await calls.ask("warm-up", queries[:50])
    for answer in await calls.ask("request", queries):
        read(answer)
    connection.close()
    return calls.rows["request"]


async def reloaded(gateway: Service, query: bytes, number: int, upstream: int) -> Row:
    """Add one service to the routes file; return how long others' requests took until its routes were there."""
    file = Path(gateway.environ["OSTIARY_GATEWAY_ROUTES"])
    (connection, other) = await connect(gateway.port, 2)
    new = request("GET", f"/service-{number}/items/4711")
    busy, started_at = gateway.cpu_seconds(), time.perf_counter()
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(services(number + 1, upstream)))
    draft.replace(file)
    times = []
    while (await other.ask(new)).status == HTTPStatus.NOT_FOUND:
        if time.perf_counter() - started_at > RELOAD_SECONDS:
            raise RuntimeError("the new routes did not come")
        until_at = time.perf_counter() + LOOK_SECONDS
        while (sent_at := time.perf_counter()) < until_at:
            read(answer := await connection.ask(query))
            times.append(answer.at - sent_at)
            await asyncio.sleep(0.001)
    seconds = time.perf_counter() - started_at
    connection.close()
    other.close()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(gateway.cpu_seconds() - busy, 2),
        **milliseconds(times),
        "slowest_ms": round(max(times) * 1000, 1),
    }


# Verifiers.


def many_verifiers(scale: Scale) -> Row:
    """Measure one auth service with more and more verifiers that wait for news."""
    place, rows = Place.apart(), dict[str, object]()
    most = raised_file_limit(max(scale.verifiers) + OTHER_FILES) - OTHER_FILES
    for count in scale.verifiers:
        if count <= most:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                auth = Service("auth", Path(folder))
                with on(place.server):
                    stack.enter_context(auth.running())
                stack.enter_context(on(place.load))
                rows[str(count)] = asyncio.run(followed(auth, count, scale))
    return rows


async def followed(auth: Service, count: int, scale: Scale) -> Row:
    token = await feed_token(auth, auth.data_dir)
    emails = await sign_up(auth.port, 1)
    sessions = [answer["access_token"] for answer in await log_in(auth.port, emails * 10)]
    wait = scale.wait_seconds
    followers = [Follower(number, token, spread(wait * number / count, wait)) for number in range(count)]
    opened = await connect(auth.port, count)
    (other,) = await connect(auth.port, 1)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(follower.follow(connection))
            for follower, connection in zip(followers, opened, strict=True)
        ]
        await until(lambda: all(follower.answers for follower in followers))
        # In a steady state, the polls are spread over the wait.
        await asyncio.sleep(wait)
        busy, started_at = auth.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(wait)
        share = (auth.cpu_seconds() - busy) / (time.perf_counter() - started_at)
        answered, known, costs = [], [], []
        for session in sessions:
            before, busy = followers[0].number, auth.cpu_seconds()
            sent_at = time.perf_counter()
            answer = await other.ask(logout(session))
            expect_ended(answer)
            await until(lambda before=before: all(each.number > before for each in followers))  # type: ignore[misc]
            answered.append(answer.at - sent_at)
            known.append(max(each.moved_at for each in followers) - sent_at)
            await asyncio.sleep(0.5)
            costs.append(auth.cpu_seconds() - busy)
        for task in tasks:
            task.cancel()
    for connection in [*opened, other]:
        connection.close()
    return {
        "idle_core_share": round(share, 4),
        "logout_itself": milliseconds(answered),
        "known_everywhere": milliseconds(known),
        "cpu_ms_per_logout": round(percentile(costs, 0.5) * 1000, 1),
        "memory_mb": round(auth.memory(), 1),
    }


# Connections.


def many_connections(scale: Scale) -> Row:
    """Measure a gateway with more and more open connections, of which 64 are busy."""
    place, rows = Place.apart(), dict[str, object]()
    most = raised_file_limit(max(scale.connections) + OTHER_FILES) - OTHER_FILES
    with running_setup(place.load) as setup:
        query = request("GET", "/orders", b"", setup.bearer)
        for count in scale.connections:
            if count > most:
                continue
            most_each = str(2 * count + OTHER_FILES)
            gateway = setup.gateway(orders(setup.upstream), OSTIARY_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS=most_each)
            with ExitStack() as stack:
                with on(place.server):
                    stack.enter_context(gateway.running())
                stack.enter_context(on(place.load))
                stack.enter_context(connections(gateway.port, max(count - 64, 0), query))
                rows[str(count)] = asyncio.run(busy_connections(gateway, query, scale.seconds))
    return rows


async def busy_connections(gateway: Service, query: bytes, seconds: float) -> Row:
    opened = await connect(gateway.port, 64)
    callers = [Repeating(query)] * 64
    await drive(opened, callers, 0.5)
    busy = gateway.cpu_seconds()
    outcome = await drive(opened, callers, seconds)
    busy = gateway.cpu_seconds() - busy
    for connection in opened:
        connection.close()
    return {
        **milliseconds(itertools.chain.from_iterable(outcome.times.values())),
        "cpu_us": round(busy / outcome.answers * 1e6, 1),
        "memory_mb": round(gateway.memory(), 1),
    }


PARTS: dict[str, Callable[[Scale], Row]] = {
    "people": people,
    "people_on_sqlite": people_on_sqlite,
    "revocations": live_revocations,
    "routes": many_routes,
    "verifiers": many_verifiers,
    "connections": many_connections,
}

if __name__ == "__main__":
    measure(
        "growth",
        PARTS,
        Scale(),
        QUICK,
        seconds=LIMIT_SECONDS,
        participants=versions(LIBRARIES, {"nginx": "-v"}),
    )
