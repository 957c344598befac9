"""Throughput of the auth service, and what a storm of failed logins does to other requests.

A real process on SQLite, and for renewals of browsers' sessions also on PostgreSQL: the server that
OSTIARY_TEST_POSTGRES_URL names, or a container; without either, that part is null. The process has one core, and the
load runs on another, with PostgreSQL, so that its throughput can be compared with what the same core achieves with
OpenSSL alone, or Argon2 alone. Both are measured in alternating rounds, so that noise affects them alike. A result is
the median of its rounds; a share is the median of the rounds' shares. Results are printed and written to
`bench/results/auth.json`. Takes at most five minutes.

    python bench/auth.py [--quick] [part ...]
"""

import asyncio
import base64
import itertools
import os
import re
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlencode

import argon2
from common import (
    PASSWORD,
    Answer,
    Caller,
    Load,
    Place,
    Repeating,
    Row,
    Service,
    connect,
    load,
    log_in,
    login,
    measure,
    milliseconds,
    on,
    percentile,
    post_json,
    read,
    request,
    sign_up,
    summary,
    versions,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from postgres import new_database

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts import password_hashing
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services
from ostiary_auth.startup import open_prepared
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID

#: Limit for the whole run, in seconds.
TOTAL_SECONDS = 420

LIMIT_SECONDS = 1
TOKEN_SECONDS = 3.0
TOKEN_CONNECTIONS = 16
LOGIN_SECONDS = 3.0
LOGIN_CONNECTIONS = 4
USERS = 64

#: Browsers' sessions that are renewed in turn: so many that none is renewed too often.
BROWSERS = 1024

STORM_SECONDS = 5.0
STORM_CONNECTIONS = 32
STORM_LEAD_SECONDS = 0.5
PROBES_PER_SECOND = 20
PROBE_CONNECTIONS = 4

SIGNED_BYTES = 500  # header and payload of an access token

LIBRARIES = ("ostiary-auth", "cryptography", "argon2-cffi")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    starts: int = 7
    rounds: int = 5
    storm_pairs: int = 4


QUICK = Scale(starts=2, rounds=1, storm_pairs=1)


class Refreshing:
    """Refreshes a session, each time with the token of the previous response."""

    def __init__(self, refresh_token: str) -> None:
        self._token = refresh_token

    def request(self) -> bytes:
        return post_json("/auth/refresh", {"refresh_token": self._token})

    def take(self, answer: Answer) -> None:
        self._token = read(answer)["refresh_token"]


class Exchanging:
    """Exchanges browsers' sessions for access tokens, one after the other, as a gateway does."""

    def __init__(self, credentials: Iterable[str], secret: str) -> None:
        basic = base64.b64encode(f"{GATEWAYS_CLIENT_ID}:{secret}".encode()).decode()
        field = f"Authorization: Basic {basic}"
        self._requests = itertools.cycle(
            [post_json("/sessions/exchange", {"session": each}, field) for each in credentials]
        )

    def request(self) -> bytes:
        return next(self._requests)

    def take(self, answer: Answer) -> None:
        read(answer)


class LoggingIn:
    """Logs users in, one after the other."""

    def __init__(self, emails: Iterable[str]) -> None:
        self._emails = itertools.cycle(emails)

    def request(self) -> bytes:
        return login(next(self._emails), PASSWORD)

    def take(self, answer: Answer) -> None:
        read(answer)


class Guessing:
    """Tries wrong passwords on accounts that do not exist, each from another address."""

    def request(self) -> bytes:
        return login(f"{secrets.token_hex(8)}@example.com", "a wrong password")

    def take(self, answer: Answer) -> None:
        """Accept any response."""


async def probe(port: int, callers: list[Caller], seconds: float) -> list[float]:
    """Send requests at a fixed rate, regardless of response times, and return the latencies."""
    connections = await connect(port, len(callers))
    times: list[float] = []
    started_at, count = time.perf_counter(), int(seconds * PROBES_PER_SECOND)

    async def paced(number: int) -> None:
        for tick in range(number, count, len(callers)):
            due = sent_at = started_at + tick / PROBES_PER_SECOND
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
                sent_at = time.perf_counter()
            # A request delayed by the previous response counts from when it was due.
            answer = await connections[number].ask(callers[number].request())
            times.append(time.perf_counter() - sent_at)
            callers[number].take(answer)

    async with asyncio.TaskGroup() as group:
        for number in range(len(callers)):
            group.create_task(paced(number))
    for connection in connections:
        connection.close()
    return times


async def open_sessions(port: int, emails: Iterable[str]) -> list[Caller]:
    """Log users in; return clients that refresh their sessions."""
    return [Refreshing(answer["refresh_token"]) for answer in await log_in(port, emails)]


async def open_browsers(data_dir: Path, database_url: str | None = None) -> list[Caller]:
    """Open browsers' sessions, more than the throttle needs; return gateways that exchange them."""
    config = AuthConfig(data_dir=data_dir, database_url=database_url)
    services, now = Services(config, await open_prepared(config)), datetime.now(UTC)
    try:
        async with services.store.read() as transaction:
            users = await transaction.users.page(None, USERS)
        async with services.store.write() as transaction:
            grants = [
                await services.sessions.open_in_browser(
                    transaction, user, FIRST_PARTY_CLIENT_ID, Context(now), persistent=True
                )
                for user in users
                for _ in range(BROWSERS // len(users))
            ]
    finally:
        await services.close()
    credentials, secret = [grant.credential for grant in grants], config.gateway_secret_path.read_text().strip()
    return [Exchanging(credentials[number::TOKEN_CONNECTIONS], secret) for number in range(TOKEN_CONNECTIONS)]


def starts(scale: Scale) -> Row:
    """Measure start time and memory, with a new data folder and with the same folder again."""
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    memory: dict[str, list[float]] = {"first": [], "second": []}
    for _ in range(scale.starts):
        with tempfile.TemporaryDirectory() as folder:
            server = Service("auth", Path(folder))
            for name, each in seconds.items():
                with server.running() as took:
                    each.append(took)
                    memory[name].append(server.memory())
    return {
        **{f"{name}_seconds": summary(values, 3) for name, values in seconds.items()},
        **{f"{name}_memory_mb": summary(values, 1) for name, values in memory.items()},
    }


def openssl_signs() -> float | None:
    """Return the signatures per second of OpenSSL's own benchmark, if it is installed."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-mr", "-seconds", str(LIMIT_SECONDS), "rsa2048"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the system's own
    found = re.search(r"^\+F2:\d+:2048:([\d.]+):", done.stdout, re.MULTILINE)
    return float(found[1]) if found else None


def rate(call: Callable[[], object]) -> float:
    """Return calls per second, sequentially."""
    count, started_at = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started_at) < LIMIT_SECONDS:
        call()
        count += 1
    return count / elapsed


@dataclass(slots=True)
class Rounds:
    """Rates by name, one per round, and for the service also all latencies and the load's CPU share."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)

    def limit(self, name: str, value: float | None) -> None:
        """Add the machine's limit."""
        if value is not None:
            self.rates.setdefault(name, []).append(value)

    def ours(self, name: str, outcome: Load) -> None:
        """Add a round of the service."""
        self.rates.setdefault(name, []).append(outcome.rate)
        self.busy.setdefault(name, []).append(outcome.busy)
        self.times.setdefault(name, []).extend(itertools.chain.from_iterable(outcome.times.values()))

    def row(self, name: str, *limits: str) -> Row:
        """Summarise, with the share of each limit that was measured."""
        row: Row = {"per_second": summary(self.rates[name], 1)}
        if name in self.times:
            row |= {**milliseconds(self.times[name]), "load_busy": round(statistics.median(self.busy[name]), 2)}
        for limit in limits:
            if limit in self.rates:
                shares = [ours / most for ours, most in zip(self.rates[name], self.rates[limit], strict=True)]
                row[f"share_of_{limit}"] = summary(shares, 3)
        return row


def rates(place: Place, scale: Scale) -> Row:
    """Measure tokens and logins per second, in turn with what limits them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = Service("auth", Path(folder))
        with on(place.server):
            stack.enter_context(server.running())
        stack.enter_context(on(place.load))
        memory: Row = {"ready_mb": round(server.memory(), 1)}
        secret = server.command("clients", "create", "bench", "--scope", "orders:read")
        emails = asyncio.run(sign_up(server.port, USERS))
        memory["after_sign_up_mb"] = round(server.memory(), 1)
        tokens = token_rounds(place, scale, server, secret, emails)
        memory["after_tokens_mb"] = round(server.memory(), 1)
        logins = login_rounds(place, scale, server, emails)
        memory["after_logins_mb"] = round(server.memory(), 1)
    return {
        "signs": {name: tokens.row(name) for name in ("openssl", "cryptography") if name in tokens.rates},
        "client_credentials": tokens.row("client_credentials", "openssl", "cryptography"),
        "refresh": tokens.row("refresh", "openssl", "cryptography"),
        "exchange": tokens.row("exchange", "openssl", "cryptography"),
        "argon2": logins.row("argon2"),
        "login": logins.row("login", "argon2"),
        "memory": memory,
    }


def token_rounds(place: Place, scale: Scale, server: Service, secret: str, emails: list[str]) -> Rounds:
    """Measure tokens for a client and for sessions, and RSA signatures alone."""
    form = {"grant_type": "client_credentials", "client_id": "bench", "client_secret": secret}
    media_type = "Content-Type: application/x-www-form-urlencoded"
    asking = Repeating(request("POST", "/oauth/token", urlencode(form).encode(), media_type))
    sessions = asyncio.run(open_sessions(server.port, emails[:TOKEN_CONNECTIONS]))
    callers: dict[str, list[Caller]] = {
        "client_credentials": [asking] * TOKEN_CONNECTIONS,
        "refresh": sessions,
        "exchange": asyncio.run(open_browsers(server.data_dir)),
    }
    return against_signing(place, scale, server, callers)


def against_signing(place: Place, scale: Scale, server: Service, callers: Mapping[str, list[Caller]]) -> Rounds:
    """Measure requests that need a signature each, in turn with RSA signatures alone."""
    key = rsa.generate_private_key(65537, 2048)
    content, padding, digest = secrets.token_bytes(SIGNED_BYTES), PKCS1v15(), SHA256()
    for each in callers.values():
        asyncio.run(load(server.port, each, 0.5))
    rounds = Rounds()
    for _ in range(scale.rounds):
        with on(place.server):
            rounds.limit("openssl", openssl_signs())
            rounds.limit("cryptography", rate(lambda: key.sign(content, padding, digest)))
        for name, each in callers.items():
            rounds.ours(name, asyncio.run(load(server.port, each, TOKEN_SECONDS)))
    return rounds


def exchanges_on_postgres(place: Place, scale: Scale) -> Row:
    """Measure renewals of browsers' sessions on PostgreSQL, which shares the core of the load."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        with on(place.load):
            url = stack.enter_context(new_database(place.load))
        server = Service("auth", Path(folder), OSTIARY_AUTH_DATABASE_URL=url)
        with on(place.server):
            stack.enter_context(server.running())
        stack.enter_context(on(place.load))
        asyncio.run(sign_up(server.port, USERS))
        callers = asyncio.run(open_browsers(server.data_dir, url))
        rounds = against_signing(place, scale, server, {"exchange": callers})
    signs: Row = {name: rounds.row(name) for name in ("openssl", "cryptography") if name in rounds.rates}
    return {"signs": signs, "exchange": rounds.row("exchange", "openssl", "cryptography")}


def login_rounds(place: Place, scale: Scale, server: Service, emails: list[str]) -> Rounds:
    """Measure logins, and Argon2 alone."""
    hasher = argon2.PasswordHasher(
        time_cost=password_hashing.ITERATIONS,
        memory_cost=password_hashing.MEMORY_KIB,
        parallelism=password_hashing.LANES,
        hash_len=password_hashing.HASH_BYTES,
        salt_len=password_hashing.SALT_BYTES,
    )
    hashed = hasher.hash(PASSWORD)
    callers = [LoggingIn(emails[number::LOGIN_CONNECTIONS]) for number in range(LOGIN_CONNECTIONS)]
    rounds = Rounds()
    for _ in range(scale.rounds):
        with on(place.server):
            rounds.limit("argon2", rate(lambda: hasher.verify(hashed, PASSWORD)))
        rounds.ours("login", asyncio.run(load(server.port, callers, LOGIN_SECONDS)))
    return rounds


def storm(port: int) -> Load:
    """Guess passwords as fast as responses arrive, in a process of its own so as not to delay the probes."""
    return asyncio.run(load(port, [Guessing() for _ in range(STORM_CONNECTIONS)], STORM_LEAD_SECONDS + STORM_SECONDS))


def storms(place: Place, scale: Scale) -> Row:
    """Measure the latency of refreshes and of the JWKS, idle and during a storm of logins, in turn."""
    times: dict[str, list[list[float]]] = {}
    guesses = Load()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = Service("auth", Path(folder))
        with on(place.server):
            stack.enter_context(server.running())
        stack.enter_context(on(place.load))
        pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        pool.submit(os.getpid).result()
        sessions = asyncio.run(prepare_sessions(server.port))
        for number in range(2 * scale.storm_pairs):
            stormy = number % 2 == 1
            outcome = asyncio.run(slice_of(server.port, sessions, pool if stormy else None, guesses))
            for name, values in outcome.items():
                times.setdefault(f"{name}_{'storm' if stormy else 'quiet'}", []).append(values)
    row: Row = {name: slices(values) for name, values in times.items()}
    for name in ("refresh", "jwks"):
        quiet, under = (percentile(itertools.chain(*times[f"{name}_{when}"]), 0.99) for when in ("quiet", "storm"))
        row[f"{name}_p99_ratio"] = round(under / quiet, 2)
    row["guesses_per_second"] = round(guesses.rate, 1)
    row["guesses"] = {str(status): {"count": len(each), **milliseconds(each)} for status, each in guesses.times.items()}
    return row


async def prepare_sessions(port: int) -> list[Caller]:
    return await open_sessions(port, await sign_up(port, PROBE_CONNECTIONS))


async def slice_of(port: int, sessions: list[Caller], pool: Executor | None, guesses: Load) -> dict[str, list[float]]:
    """Measure one slice, during a storm if there is a pool to run it, and add its guesses to `guesses`."""
    raging = asyncio.get_running_loop().run_in_executor(pool, storm, port) if pool else None
    await asyncio.sleep(STORM_LEAD_SECONDS)
    keys: list[Caller] = [Repeating(request("GET", "/.well-known/jwks.json"))] * PROBE_CONNECTIONS
    refreshing, fetching = await asyncio.gather(probe(port, sessions, STORM_SECONDS), probe(port, keys, STORM_SECONDS))
    if raging is not None:
        outcome = await raging
        guesses.seconds += outcome.seconds
        for status, values in outcome.times.items():
            guesses.times.setdefault(status, []).extend(values)
    return {"refresh": refreshing, "jwks": fetching}


def slices(values: list[list[float]]) -> Row:
    """Summarise latencies over all slices, and the spread of the slices' 99th percentiles."""
    spread = summary((percentile(each, 0.99) * 1000 for each in values), 2)
    return {**milliseconds(itertools.chain(*values)), "p99_ms_of_slices": spread}


PARTS: dict[str, Callable[[Scale], Row]] = {
    "start": starts,
    "rates_on_one_core": partial(rates, Place.apart()),
    "exchange_on_postgres": partial(exchanges_on_postgres, Place.apart()),
    "storm_on_one_core": partial(storms, Place.apart()),
    "storm_on_all_cores": partial(storms, Place.everywhere()),
}

if __name__ == "__main__":
    measure(
        "auth", PARTS, Scale(), QUICK, seconds=TOTAL_SECONDS, participants=versions(LIBRARIES, {"openssl": "version"})
    )
