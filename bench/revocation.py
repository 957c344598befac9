"""How long a logout takes to be in force everywhere, and what that costs.

Measured on real processes on SQLite:

logout    How long four verifiers accept a session's token after the logout's response: two gateways, the profile
          service and the auth service itself. Each is probed continuously over a keep-alive connection.
          The result is when the first rejection arrives, which is too long by the duration of that request; the time
          when the last accepted request was sent is too short. Then the same as reported by a logout with
          `Prefer: wait`, without these probes, and with one probe of each verifier afterwards.
check     The cost of the revocation check for a cached token, in memory and time. Contenders take turns; `extra` is the
          difference to a verification without revocations in the same round.
feed      The cost of a thousand verifiers that follow one auth service on a core of its own: idle, on a revocation, and
          polling as fast as possible, in turn with a request that does nothing.
requests  Requests per second of the same small service on a core of its own: with the feed, without it, with a look-up
          in a Redis denylist, and with opaque session ids in Redis without tokens. Redis, reached over a Unix socket by
          a minimal client, and the auth service share the other core with the load.

Results are printed and written to `bench/results/revocation.json`. Takes five minutes. `--quick` is a short functional
check, and part names select parts; neither writes results.
"""

import asyncio
import gc
import itertools
import json
import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlencode

import uvicorn
from common import (
    HOST,
    OK,
    Answer,
    Caller,
    Connection,
    Hit,
    Place,
    Process,
    Repeating,
    Row,
    Service,
    answers,
    ask_all,
    connect,
    drive,
    free_ports,
    hit,
    in_turn,
    load,
    log_in,
    measure,
    memory,
    milliseconds,
    on,
    percentile,
    request,
    side_by_side,
    sign_up,
    summary,
    versions,
)
from fastapi import Depends, FastAPI, Request

from ostiary import Feed, KeySet, LocalKeys, LocalRevocations, Revocations, VerifiedToken, Verifier, VerifierConfig
from ostiary import _base64url as base64url
from ostiary._clock import suspend_aware_clock
from ostiary._revocations import GENERATION_SHARE, MIN_RETENTION, RETENTION_MARGIN, Names
from ostiary.errors import Revoked
from ostiary.fastapi import Auth
from ostiary.feed import GENESIS, MAX_EVENTS, Kind, Revocation
from ostiary.feed import Answer as FeedAnswer
from ostiary.http import bearer_token
from ostiary.testing import Issuer

#: Limit for the whole run, in seconds.
LIMIT_SECONDS = 355

#: Seconds for which a disconnected verifier accepts tokens; no token may be accepted for longer.
LEASE_SECONDS = 30

ROUTES = Path(__file__).parents[1] / "deploy" / "gateway.yaml"
UNAUTHORIZED, FORBIDDEN = 401, 403

#: Seconds that a revocation stays in the log and in a verifier's memory; seconds of steady load after which memory
#: peaks: expired revocations are removed in generations.
REVOCATION_SECONDS = MIN_RETENTION + RETENTION_MARGIN
FULLEST_SECONDS = (REVOCATION_SECONDS + RETENTION_MARGIN) * (1 + GENERATION_SHARE) - 1

AUDIENCE, ISSUER = "ostiary", "http://localhost:8080"
VERIFIERS_CLIENT = "ostiary-verifiers"
SCOPE = "profile:read"
LIBRARIES = ("ostiary", "ostiary-auth", "ostiary-gateway", "fastapi", "uvicorn", "uvloop")
PROGRAMS = {"redis-server": "-v", "wrk": "-v"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    users: int = 100
    logouts: int = 1000
    waits: int = 500
    live: int = 1_000_000
    tokens: int = 2000
    check_rounds: int = 40
    verifiers: int = 1000
    wait_seconds: float = 10.0
    revocations: int = 20
    poll_rounds: int = 5
    rounds: int = 5
    round_seconds: float = 2.0
    connections: int = 16


QUICK = Scale(
    users=10,
    logouts=30,
    waits=30,
    live=100_000,
    tokens=200,
    check_rounds=10,
    verifiers=100,
    wait_seconds=2.0,
    revocations=3,
    poll_rounds=2,
    rounds=2,
    round_seconds=1.0,
)


# Time until a logout is in force.

#: Seconds between two requests of a probe; the resolution of the measurement.
PROBE_PAUSE = 0.001


@dataclass(frozen=True, slots=True)
class Target:
    """A verifier and a request to it; the response has the status `accepted` if the token is valid."""

    name: str
    port: int
    path: str
    accepted: int

    def accepts(self, answer: Answer) -> bool:
        """Return whether the token was accepted. Raises RuntimeError if it was rejected for another reason."""
        if answer.status == self.accepted:
            return True
        if answer.status == UNAUTHORIZED and b'"revoked"' in answer.body:
            return False
        raise RuntimeError(f"{self.name} answered {answer.status}: {answer.body.decode()}")


@dataclass(slots=True)
class Probe:
    """Sends requests to a verifier continuously and records latencies. Times are in seconds."""

    target: Target
    connection: Connection
    round_trips: list[float] = field(default_factory=list)
    #: Per logout, relative to its response: when the last accepted request was sent, and when the rejection came.
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    async def accepts(self, token: str) -> bool:
        query = request("GET", self.target.path, b"", f"Authorization: Bearer {token}")
        return self.target.accepts(await self.connection.ask(query))

    async def until_refused(self, token: str, begun: asyncio.Event) -> tuple[float, float]:
        """Probe until the token is rejected; return when the last accepted request was sent and the rejection came."""
        query = request("GET", self.target.path, b"", f"Authorization: Bearer {token}")
        last_at = -math.inf
        while True:
            sent_at = time.perf_counter()
            answer = await self.connection.ask(query)
            if not self.target.accepts(answer):
                return last_at, answer.at
            last_at = sent_at
            self.round_trips.append(answer.at - sent_at)
            begun.set()
            # Without a pause, the probes take CPU time from the verifiers.
            await asyncio.sleep(PROBE_PAUSE)

    def row(self) -> Row:
        return {
            "refused": times(self.refused),
            "accepted_until": times(self.accepted),
            "probe_round_trip": milliseconds(self.round_trips),
        }


def logouts(scale: Scale) -> Row:
    """Measure how long a token is accepted after the logout's response, and what a waiting logout reports."""
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as targets:
        auth_port = targets[-1].port
        tokens = asyncio.run(open_sessions(auth_port, scale.users, scale.logouts + scale.waits))
        probes, answered = asyncio.run(log_out_all(auth_port, targets, tokens[: scale.logouts]))
        waits = asyncio.run(wait_for_all(auth_port, targets, tokens[scale.logouts :]))
    return {
        "logouts": scale.logouts,
        "refused_everywhere": times(map(max, zip(*(probe.refused for probe in probes), strict=True))),
        "logout_itself": milliseconds(answered),
        "verifiers": {probe.target.name: probe.row() for probe in probes},
        "prefer_wait": waits,
    }


@contextmanager
def cluster(folder: Path) -> Iterator[list[Target]]:
    """Run the three services and a second gateway; yields the targets, the auth service last."""
    auth, profile, *gateways = free_ports(4)
    settings = {
        "OSTIARY_FEED_SECRET_FILE": str(folder / "feed-secret"),
        "OSTIARY_ISSUER": f"http://localhost:{gateways[0]}",
        "OSTIARY_AUTH_URL": f"http://{HOST}:{auth}",
        "OSTIARY_PROFILE_URL": f"http://{HOST}:{profile}",
        "OSTIARY_GATEWAY_ROUTES": str(ROUTES),
    }
    with ExitStack() as stack:
        for name, port in [("auth", auth), ("profile", profile), *(("gateway", port) for port in gateways)]:
            stack.enter_context(Service(name, folder, port=port, **settings).running())
        # Gateways are probed with a request that they reject themselves, so that no other verifier is involved.
        yield [
            *(Target(f"gateway_{number}", port, "/admin/audit", FORBIDDEN) for number, port in enumerate(gateways, 1)),
            Target("profile", profile, "/profiles/me", OK),
            Target("auth", auth, "/auth/me", OK),
        ]


async def open_sessions(port: int, users: int, count: int) -> list[str]:
    """Return access tokens of that many sessions."""
    emails = await sign_up(port, users)
    logins = await log_in(port, itertools.islice(itertools.cycle(emails), count))
    return [answer["access_token"] for answer in logins]


async def connect_probes(targets: Iterable[Target]) -> list[Probe]:
    return [Probe(target, (await connect(target.port, 1))[0]) for target in targets]


async def log_out_all(port: int, targets: Sequence[Target], tokens: Iterable[str]) -> tuple[list[Probe], list[float]]:
    """Log sessions out one after the other; return the probes and the seconds that the logouts took."""
    (connection,) = await connect(port, 1)
    probes = await connect_probes(targets)
    answered = []
    for token in tokens:
        # Later than the lease is a defect.
        async with asyncio.timeout(LEASE_SECONDS):
            answered.append(await log_out(connection, probes, token))
    return probes, answered


async def log_out(connection: Connection, probes: list[Probe], token: str) -> float:
    """Log a session out while its token is probed everywhere; return the seconds until the response."""
    async with asyncio.TaskGroup() as group:
        begun = [asyncio.Event() for _ in probes]
        tasks = [
            group.create_task(probe.until_refused(token, event)) for probe, event in zip(probes, begun, strict=True)
        ]
        for event in begun:
            await event.wait()
        sent_at = time.perf_counter()
        answer = await connection.ask(logout(token))
        expect_ended(answer)
    for probe, task in zip(probes, tasks, strict=True):
        accepted_at, refused_at = task.result()
        probe.accepted.append(accepted_at - answer.at)
        probe.refused.append(refused_at - answer.at)
    return answer.at - sent_at


async def wait_for_all(port: int, targets: Sequence[Target], tokens: Sequence[str]) -> Row:
    """Log sessions out with `Prefer: wait`; count verifiers that accept their tokens afterwards."""
    (connection,) = await connect(port, 1)
    probes = await connect_probes(targets)
    reported: list[float] = []
    answered: list[float] = []
    accepted = 0
    for token in tokens:
        for probe in probes:
            if not await probe.accepts(token):
                raise RuntimeError(f"{probe.target.name} rejects a valid token")
        sent_at = time.perf_counter()
        answer = await connection.ask(logout(token, "Prefer: wait=5"))
        document = expect_ended(answer)
        if not document["complete"]:
            raise RuntimeError(f"a logout was not in force in time: {document}")
        reported.append(document["in_force_after_ms"] / 1000)
        answered.append(answer.at - sent_at)
        accepted += sum([await probe.accepts(token) for probe in probes])
    return {
        "logouts": len(tokens),
        "in_force_after": times(reported),
        "answered_after": times(answered),
        "accepted_after_answer": accepted,
    }


def logout(token: str, *fields: str) -> bytes:
    return request("POST", "/auth/logout", b"", f"Authorization: Bearer {token}", *fields)


def expect_ended(answer: Answer) -> dict[str, Any]:
    """Return a logout's document. Raises RuntimeError if it did not end its session."""
    document: dict[str, Any] = json.loads(answer.body)
    if answer.status != OK or document["revoked"] != 1:
        raise RuntimeError(f"unexpected response to a logout: {answer.status}: {document}")
    return document


# Cost of the revocation check.


class Arriving(Revocations):
    """Revocations that arrived over some time up to now."""

    def arrive(self, count: int, seconds: float) -> None:
        """Add `count` revocations, spread evenly over the last `seconds`."""
        until = suspend_aware_clock()
        for first in range(1, count + 1, MAX_EVENTS):
            head = min(first + MAX_EVENTS - 1, count)
            self._clock = partial(float, until - seconds * (count - head) / count)
            self.apply(part_of_a_log(first, head), 0.0)
        self._clock = suspend_aware_clock
        self.fresh_at = math.inf


def part_of_a_log(first: int, head: int) -> FeedAnswer:
    """Return a feed response with revocations of sessions, whose ids are as long as real ones."""
    expires_at = int(REVOCATION_SECONDS)
    revocations = (Revocation(number, Kind.SESSION, f"{number:036d}", expires_at) for number in range(first, head + 1))
    return FeedAnswer("", 0, "bench", first, head, False, GENESIS, True, tuple(revocations), "keys")


def checks(scale: Scale) -> Row:
    """Measure the cost of the revocation check, in memory and in time."""
    count = round(scale.live * FULLEST_SECONDS / REVOCATION_SECONDS)
    return {"memory": memory_taken(scale.live, count), "nanoseconds": check_times(scale, count)}


def memory_taken(live: int, count: int) -> Row:
    """Return the memory that revocations take, resident and as traced by Python, each in a new process.

    Measured for revocations that arrive at once, and for a steady state with that many live ones.
    """
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        traced = pool.submit(mebibytes, live, 0.0, traced=True)
        resident = pool.submit(mebibytes, live, 0.0, traced=False)
        fullest = pool.submit(mebibytes, count, FULLEST_SECONDS, traced=False)
    return {
        f"{live}_at_once": {"resident_mib": round(resident.result(), 1), "traced_mib": round(traced.result(), 1)},
        f"{live}_live_all_the_time": {"held": count, "resident_mib": round(fullest.result(), 1)},
    }


def mebibytes(count: int, seconds: float, *, traced: bool) -> float:
    """Add revocations and return how much the memory of this process grew."""

    def taken() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if traced else memory(os.getpid())

    if traced:
        tracemalloc.start()
    before = taken()
    revocations = Arriving()
    revocations.arrive(count, seconds)
    if len(revocations) != count:
        raise RuntimeError("some revocations were dropped")
    return (taken() - before) / 2**20


def check_times(scale: Scale, count: int) -> Row:
    """Measure the verification of cached tokens with and without revocations, in nanoseconds."""
    issuer = Issuer()
    tokens = [issuer.token(scopes=[SCOPE]) for _ in range(scale.tokens)]
    none, few, many = Revocations(), Arriving(), Arriving()
    few.arrive(0, 0.0)
    many.arrive(count, FULLEST_SECONDS)
    without = verifier_of(issuer, None)
    verified = [without.verify(token) for token in tokens]
    pairs = [(token, Names(token)) for token in verified]
    live = f"{scale.live}_live"
    contenders: dict[str, Callable[[], float]] = {
        "without": partial(verify_all, without, tokens, none),
        "none_live_skipped": partial(verify_all, verifier_of(issuer, few), tokens, none),
        "none_live_checked": partial(verify_all, verifier_of(issuer, few), tokens, few),
        f"{live}_skipped": partial(verify_all, verifier_of(issuer, many), tokens, none),
        f"{live}_checked": partial(verify_all, verifier_of(issuer, many), tokens, many),
        f"check_alone_{live}": partial(per_call, many.check, pairs),
    }
    gc.collect()
    gc.disable()
    rounds = in_turn(contenders, scale.check_rounds)
    gc.enable()
    result: Row = {name: summary(values, 0) for name, values in rounds.items()}
    for name in list(contenders)[1:-1]:
        extra = (ours - base for ours, base in zip(rounds[name], rounds["without"], strict=True))
        result[f"extra_{name}"] = summary(extra, 0)
    return result


def verifier_of(issuer: Issuer, revocations: Revocations | None) -> Verifier:
    """Return a verifier with these revocations, or with none."""
    source = None
    if revocations is not None:
        source = LocalRevocations()
        source.revocations = revocations
    keys = LocalKeys(KeySet.from_json(issuer.jwks()))
    config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, key_source=keys, revocation_source=source)
    return Verifier(config)


def verify_all(verifier: Verifier, tokens: Sequence[str], changing: Revocations) -> float:
    """Verify tokens while revocations change: those of the verifier, or unrelated ones."""

    def verify(token: str) -> None:
        changing.version += 1
        verifier.verify(token)

    # Warm up.
    for token in tokens:
        verifier.verify(token)
    return per_call(verify, [(token,) for token in tokens])


def per_call(call: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> float:
    """Return nanoseconds per call."""
    started_at = time.perf_counter_ns()
    for each in arguments:
        call(*each)
    return (time.perf_counter_ns() - started_at) / len(arguments)


# Cost of the feed.


class Follower:
    """A verifier that follows the feed like the library's but verifies no signature. A Caller."""

    def __init__(self, number: int, token: str, waits: Iterable[float]) -> None:
        """Poll with `token`; `waits` are the seconds that each poll waits for news."""
        self._name = f"bench-{number}"
        self._token = token
        self._waits = iter(waits)
        self._epoch, self._keys = "", "none"
        self.number = self.answers = 0
        #: When the last new entry came.
        self.moved_at = 0.0

    def request(self) -> bytes:
        query: dict[str, str | int] = {
            "epoch": self._epoch,
            "after": self.number,
            "wait": int(next(self._waits) * 1000),
            "verifier": self._name,
            "keys": self._keys,
            "nonce": secrets.token_urlsafe(16),
            "lease": LEASE_SECONDS * 1000,
        }
        return request("GET", f"/feed?{urlencode(query)}", b"", f"Authorization: Bearer {self._token}")

    def take(self, answer: Answer) -> None:
        if answer.status != OK:
            raise RuntimeError(f"unexpected response of the feed: {answer.status}: {answer.body.decode()}")
        self.answers += 1
        claims = claims_of(answer.body)
        self._epoch, self._keys = claims["epoch"], claims["keys"]
        if claims["head"] > self.number:
            self.number, self.moved_at = claims["head"], answer.at

    async def follow(self, connection: Connection) -> None:
        """Poll until cancelled."""
        while True:
            self.take(await connection.ask(self.request()))


@lru_cache(64)
def claims_of(token: bytes) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(base64url.decode(token.split(b".")[1]))
    return claims


def feeds(scale: Scale) -> Row:
    """Measure the cost of verifiers that follow one auth service."""
    place = Place.apart()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        auth = Service("auth", Path(folder))
        with on(place.server):
            stack.enter_context(auth.running())
        stack.enter_context(on(place.load))
        token = asyncio.run(feed_token(auth, Path(folder)))
        sessions = asyncio.run(open_sessions(auth.port, 1, scale.revocations))
        followed = asyncio.run(follow(scale, auth, token, sessions))
        polled = asyncio.run(poll(scale, auth, token))
        return {"verifiers": scale.verifiers, **followed, **polled, "memory_mb": round(auth.memory(), 1)}


async def feed_token(auth: Service, folder: Path) -> str:
    secret = (folder / "feed-secret").read_text().strip()
    form = {"grant_type": "client_credentials", "client_id": VERIFIERS_CLIENT, "client_secret": secret}
    media_type = "Content-Type: application/x-www-form-urlencoded"
    (granted,) = await ask_all(auth.port, [request("POST", "/oauth/token", urlencode(form).encode(), media_type)])
    return str(granted["access_token"])


async def follow(scale: Scale, auth: Service, token: str, sessions: Iterable[str]) -> Row:
    """Measure waiting verifiers: spread over time, on news, and in step."""
    wait = scale.wait_seconds
    followers = [
        Follower(number, token, spread(wait * number / scale.verifiers, wait)) for number in range(scale.verifiers)
    ]
    connections = await connect(auth.port, scale.verifiers)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(follower.follow(connection))
            for follower, connection in zip(followers, connections, strict=True)
        ]
        await until(lambda: all(follower.answers for follower in followers))
        idle_spread = await idle(auth, followers, wait)
        (other,) = await connect(auth.port, 1)
        news = [await revoke(other, followers, session) for session in sessions]
        idle_in_step = await idle(auth, followers, wait)
        for task in tasks:
            task.cancel()
    for connection in [*connections, other]:
        connection.close()
    return {
        "idle_spread": idle_spread,
        "idle_in_step": idle_in_step,
        "revocation": {
            "one_verifier_after_sending": times(itertools.chain(*(each for each, _ in news))),
            "all_verifiers_after_sending": times(max(each) for each, _ in news),
            "logout_itself": times(answered for _, answered in news),
        },
    }


def spread(offset: float, wait: float) -> Iterator[float]:
    """Return the waits of a verifier's polls: the first returns at once, the second spreads the verifiers out."""
    return itertools.chain([0.0, offset], itertools.repeat(wait))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for the length of a lease at most."""
    async with asyncio.timeout(LEASE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the condition depends on a thousand connections
            await asyncio.sleep(0.002)


async def idle(auth: Service, followers: Sequence[Follower], seconds: float) -> Row:
    """Measure the auth service while nothing happens, in steady state."""
    await asyncio.sleep(seconds + 0.2)
    polls, busy, started_at = total(followers), auth.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(seconds)
    polls, busy = total(followers) - polls, auth.cpu_seconds() - busy
    elapsed = time.perf_counter() - started_at
    return {
        "core_share": round(busy / elapsed, 4),
        "polls_per_second": round(polls / elapsed, 1),
        "cpu_ms_per_poll": round(busy / polls * 1000, 3) if polls else 0.0,
    }


def total(followers: Iterable[Follower]) -> int:
    return sum(follower.answers for follower in followers)


async def revoke(connection: Connection, followers: Sequence[Follower], token: str) -> tuple[list[float], float]:
    """Log a session out; return after how many seconds each follower knew, and the response came."""
    before = followers[0].number
    sent_at = time.perf_counter()
    answer = await connection.ask(logout(token))
    expect_ended(answer)
    await until(lambda: all(follower.number > before for follower in followers))
    known = [follower.moved_at - sent_at for follower in followers]
    # All verifiers are polling again.
    await asyncio.sleep(0.5)
    return known, answer.at - sent_at


async def poll(scale: Scale, auth: Service, token: str) -> Row:
    """Measure polls that do not wait, in turn with requests that do nothing."""
    followers = [Follower(number, token, itertools.repeat(0.0)) for number in range(scale.verifiers)]
    nothing = [Repeating(request("GET", "/livez"))] * scale.verifiers
    callers: dict[str, Sequence[Caller]] = {"polls": followers, "livez": nothing}
    connections = await connect(auth.port, scale.verifiers)
    for each in callers.values():
        await drive(connections, each, 0.5)
    rates: dict[str, list[float]] = {name: [] for name in callers}
    costs: dict[str, list[float]] = {name: [] for name in callers}
    for _ in range(scale.poll_rounds):
        for name, each in callers.items():
            busy = auth.cpu_seconds()
            outcome = await drive(connections, each, scale.round_seconds)
            rates[name].append(outcome.rate)
            costs[name].append((auth.cpu_seconds() - busy) / outcome.answers * 1000)
    for connection in connections:
        connection.close()
    return {name: {"per_second": summary(rates[name], 1), "cpu_ms": summary(costs[name], 3)} for name in callers}


# Requests per second, compared.

Way = Literal["feed", "without", "denylist", "opaque"]


@dataclass(frozen=True, slots=True)
class Orders:
    """A small service that authenticates by `way`, and the addresses that it needs."""

    way: Way
    port: int
    auth_port: int
    feed_secret: str
    redis: str


class Redis(asyncio.Protocol):
    """Redis over one connection, with pipelined commands."""

    _transport: asyncio.Transport
    _received = b""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[bytes | None]] = deque()

    @classmethod
    async def connect(cls, path: str) -> "Redis":
        """Connect to a Unix socket."""
        return (await asyncio.get_running_loop().create_unix_connection(cls, path))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, *words: str) -> asyncio.Future[bytes | None]:
        """Send a command; the future gets the reply."""
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words)]
        self._transport.write(b"*%d\r\n%s" % (len(parts), b"".join(parts)))
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        return answer

    def data_received(self, data: bytes) -> None:
        """Parse complete replies: lines, and bulk strings with their length."""
        self._received += data
        while True:
            line, end, rest = self._received.partition(b"\r\n")
            length = int(line[1:]) if line.startswith(b"$") else -1
            if not end or len(rest) < length + 2 * (length >= 0):
                return
            value = rest[:length] if length >= 0 else None if line == b"$-1" else line[1:]
            self._received = rest[length + 2 :] if length >= 0 else rest
            if line.startswith(b"-"):
                raise RuntimeError(f"Redis error: {line.decode()}")
            self._waiting.popleft().set_result(value)

    def close(self) -> None:
        self._transport.close()


def serve(orders: Orders) -> None:
    uvicorn.run(application(orders), host=HOST, port=orders.port, loop="uvloop", access_log=False, log_level="warning")


def application(orders: Orders) -> FastAPI:
    url = f"http://{HOST}:{orders.auth_port}"
    feed = Feed(url=f"{url}/feed", client_id=VERIFIERS_CLIENT, secret_file=orders.feed_secret, name="orders")
    config = VerifierConfig(
        issuer=ISSUER,
        audience=AUDIENCE,
        jwks_url=f"{url}/.well-known/jwks.json",
        feed=feed if orders.way == "feed" else None,
    )
    auth = Auth(Verifier(config))
    caller = Annotated[VerifiedToken, Depends(auth.require(scopes=[SCOPE]))]
    redis: list[Redis] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            if orders.way != "opaque":
                await running.enter_async_context(auth.lifespan(app))
            if orders.redis:
                redis.append(await Redis.connect(orders.redis))
            yield

    app = FastAPI(lifespan=lifespan, exception_handlers=auth.exception_handlers)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {}

    async def by_token(token: caller) -> dict[str, str]:
        return {"orders_of": token.subject}

    async def by_token_and_denylist(token: caller) -> dict[str, str]:
        if await redis[0].ask("EXISTS", f"revoked:{token.session_id}") != b"0":
            raise Revoked
        return {"orders_of": token.subject}

    async def by_session_id(call: Request) -> dict[str, str]:
        session = await redis[0].ask("GET", f"session:{bearer_token(call.headers.getlist('authorization'))}")
        if session is None:
            raise Revoked
        return {"orders_of": json.loads(session)["subject"]}

    handlers: dict[Way, Callable[..., Any]] = {"denylist": by_token_and_denylist, "opaque": by_session_id}
    app.get("/orders")(handlers.get(orders.way, by_token))
    return app


def requests(scale: Scale) -> Row:
    """Measure the small service with every way that is available, in turn."""
    place = Place.apart()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(on(place.load))
        auth = Service("auth", folder, OSTIARY_ISSUER=ISSUER)
        stack.enter_context(auth.running())
        redis = stack.enter_context(redis_server(folder))
        ways: list[Way] = ["feed", "without", *(("denylist", "opaque") if redis else ())]
        secret = str(folder / "feed-secret")
        services = [Orders(way, port, auth.port, secret, redis) for way, port in zip(ways, free_ports(4), strict=False)]
        with on(place.server):
            for each in services:
                stack.enter_context(running(each, folder))
        (session,) = asyncio.run(log_in(auth.port, asyncio.run(sign_up(auth.port, 1))))
        opaque = secrets.token_urlsafe(32)
        if redis:
            asyncio.run(
                tell_redis(redis, "SET", f"session:{opaque}", json.dumps({"subject": "somebody", "scope": SCOPE}))
            )
        bearers = {each.way: opaque if each.way == "opaque" else session["access_token"] for each in services}
        rows = side_by_side(
            {each.way: partial(load_orders, each.port, bearers[each.way], scale) for each in services}, scale.rounds
        )
        end_session(auth.port, session, redis, opaque)
        accepted = [each.way for each in services if is_accepted(each, bearers[each.way])]
        if accepted != ["without"]:
            raise RuntimeError(f"still accepting the session after the logout: {accepted}")
    return {"load": "wrk" if shutil.which("wrk") else "asyncio", **rows}


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run Redis if it is installed; yields the path of its socket, or an empty string."""
    program = shutil.which("redis-server")
    if program is None:
        print("redis-server is not installed: skipping what needs it")
        yield ""
        return
    path = folder / "redis"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]

    def is_ready() -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(path)) == 0

    with Process(command, folder / "redis.log", is_ready).running():
        yield str(path)


@contextmanager
def running(orders: Orders, folder: Path) -> Iterator[None]:
    command = [sys.executable, __file__, "--serve", json.dumps(asdict(orders))]
    with Process(command, folder / f"{orders.way}.log", partial(answers, orders.port, "/readyz")).running():
        yield


async def tell_redis(path: str, *words: str) -> None:
    redis = await Redis.connect(path)
    await redis.ask(*words)
    redis.close()


def load_orders(port: int, bearer: str, scale: Scale) -> Hit:
    """Load a small service, with wrk if it is installed."""
    if shutil.which("wrk") is None:
        callers = [Repeating(orders_request(bearer))] * scale.connections
        outcome = asyncio.run(load(port, callers, scale.round_seconds))
        return Hit(outcome.rate, percentile(outcome.times[OK], 0.99) * 1000)
    token = f"Authorization: Bearer {bearer}"
    return hit(port, "/orders", scale.round_seconds, scale.connections, "--header", token)


def orders_request(bearer: str) -> bytes:
    return request("GET", "/orders", b"", f"Authorization: Bearer {bearer}")


def end_session(port: int, session: dict[str, Any], redis: str, opaque: str) -> None:
    """Log out, in every way."""
    asyncio.run(ask_all(port, [logout(session["access_token"], "Prefer: wait=5")]))
    if redis:
        asyncio.run(tell_redis(redis, "SET", f"revoked:{session['session_id']}", ""))
        asyncio.run(tell_redis(redis, "DEL", f"session:{opaque}"))


def is_accepted(orders: Orders, bearer: str) -> bool:
    async def ask() -> int:
        (connection,) = await connect(orders.port, 1)
        status = (await connection.ask(orders_request(bearer))).status
        connection.close()
        return status

    return asyncio.run(ask()) == OK


# Main.


def times(seconds: Iterable[float]) -> Row:
    ordered = sorted(seconds)
    return {**milliseconds(ordered), "max_ms": round(ordered[-1] * 1000, 2)}


PARTS: dict[str, Callable[[Scale], Row]] = {"logout": logouts, "check": checks, "feed": feeds, "requests": requests}


def main() -> None:
    """Run the benchmark, or serve a small service for `running`."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Orders(**json.loads(sys.argv[2])))
        return
    measure("revocation", PARTS, Scale(), QUICK, seconds=LIMIT_SECONDS, participants=versions(LIBRARIES, PROGRAMS))


if __name__ == "__main__":
    main()
