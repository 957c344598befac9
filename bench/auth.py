"""What the auth service does in a second, and what a storm of logins does to everybody else.

A real process on SQLite. It has one core, and the load comes from another, so that what it does can be held
against what the same core does with nothing but OpenSSL, or nothing but Argon2: measured in turn with it, round
by round, so that a noisy moment hits all alike. A figure is the median of its rounds, a share the median
of the rounds' shares. Results are printed and written to `bench/results/auth.json`. Takes four minutes at most.
"""

import asyncio
import ipaddress
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlencode

import argon2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from ostiary_auth.domain import passwords

STARTS = 7
ROUNDS = 5
LIMIT_SECONDS = 1
TOKEN_SECONDS = 3.0
TOKEN_CONNECTIONS = 16
LOGIN_SECONDS = 3.0
LOGIN_CONNECTIONS = 4
USERS = 64

STORM_PAIRS = 4
STORM_SECONDS = 5.0
STORM_CONNECTIONS = 32
STORM_LEAD_SECONDS = 0.5
PROBES_PER_SECOND = 20
PROBE_CONNECTIONS = 4

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.005

HOST = "127.0.0.1"
AUTH = str(Path(sys.executable).with_name("ostiary-auth"))
PASSWORD = "a long enough password"  # noqa: S105 - made up
OK, CREATED = 200, 201
SIGNED_BYTES = 500  # the size of an access token's first two parts

_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

Cores = frozenset[int]
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


class Caller(Protocol):
    """Somebody who asks over one connection, and minds the answers."""

    def request(self) -> bytes:
        """Return what to ask next."""

    def take(self, answer: Answer) -> None:
        """Take the answer. Raises RuntimeError for one that must not be."""


class Repeating:
    """Asks the same again and again."""

    def __init__(self, request: bytes) -> None:
        """Ask `request`."""
        self._request = request

    def request(self) -> bytes:
        """Return it."""
        return self._request

    def take(self, answer: Answer) -> None:
        """Expect success."""
        read(answer)


class Refreshing:
    """Continues a session, each time with the token of the answer before."""

    def __init__(self, refresh_token: str) -> None:
        """Begin with the token of the login."""
        self._token = refresh_token

    def request(self) -> bytes:
        """Return the next refresh."""
        return post_json("/auth/refresh", {"refresh_token": self._token})

    def take(self, answer: Answer) -> None:
        """Keep the next token."""
        self._token = read(answer)["refresh_token"]


class LoggingIn:
    """Logs users in, one after the other."""

    def __init__(self, emails: Iterable[str]) -> None:
        """Go around these users."""
        self._emails = itertools.cycle(emails)

    def request(self) -> bytes:
        """Return the next user's login."""
        return login(next(self._emails), PASSWORD)

    def take(self, answer: Answer) -> None:
        """Expect success."""
        read(answer)


class Guessing:
    """Tries wrong passwords on accounts that do not exist, each from another address."""

    def request(self) -> bytes:
        """Return the next guess."""
        return login(f"{secrets.token_hex(8)}@example.com", "a wrong password")

    def take(self, answer: Answer) -> None:
        """Expect any answer."""


class Connection(asyncio.Protocol):
    """A connection that stays open, with one request on its way at a time."""

    _transport: asyncio.Transport
    _answer: asyncio.Future[Answer]
    _received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer comes later."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Give the answer out when it is whole."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self._received = b""
            self._answer.set_result(Answer(int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nobody waiting."""
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer"))

    def close(self) -> None:
        """Close it."""
        self._transport.close()


@dataclass(slots=True)
class Load:
    """What one round of load came to. Times are in seconds, by status."""

    times: dict[int, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    busy_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return sum(map(len, self.times.values())) / self.seconds

    @property
    def busy(self) -> float:
        """The share of a core that the load itself took."""
        return self.busy_seconds / self.seconds

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.times.setdefault(status, []).append(seconds)


def request(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    """Return an HTTP/1.1 request."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


def post_json(path: str, document: object, *fields: str) -> bytes:
    """Return a request with a JSON document."""
    return request("POST", path, json.dumps(document).encode(), "Content-Type: application/json", *fields)


def login(email: str, password: str) -> bytes:
    """Return a login from an address of its own, so that no throttle counts it with another."""
    source = ipaddress.IPv4Address((10 << 24) + secrets.randbits(24))
    return post_json("/auth/login", {"email": email, "password": password}, f"X-Forwarded-For: {source}")


def read(answer: Answer, *expected: int) -> Any:
    """Return an answer's document. Raises RuntimeError if it is a refusal."""
    if answer.status not in (expected or (OK,)):
        raise RuntimeError(f"the service answered {answer.status}: {answer.body.decode()}")
    return json.loads(answer.body)


async def connect(port: int, count: int) -> list[Connection]:
    """Open connections."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, HOST, port))[1] for _ in range(count)]


async def load(port: int, callers: Iterable[Caller], seconds: float) -> Load:
    """Let callers ask as fast as the answers come, each over a connection of its own."""
    asking = list(callers)
    connections = await connect(port, len(asking))
    outcome = Load()
    started_at, busy_from = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for connection, caller in zip(connections, asking, strict=True):
            group.create_task(hammer(connection, caller, started_at + seconds, outcome))
    outcome.seconds = time.perf_counter() - started_at
    outcome.busy_seconds = time.process_time() - busy_from
    for connection in connections:
        connection.close()
    return outcome


async def hammer(connection: Connection, caller: Caller, until: float, outcome: Load) -> None:
    """Ask over one connection until the time is up."""
    while (sent_at := time.perf_counter()) < until:
        answer = await connection.ask(caller.request())
        outcome.add(answer.status, time.perf_counter() - sent_at)
        caller.take(answer)


async def probe(port: int, callers: list[Caller], seconds: float) -> list[float]:
    """Ask at a steady pace, whatever the answers take, and return what they took."""
    connections = await connect(port, len(callers))
    times: list[float] = []
    started_at, count = time.perf_counter(), int(seconds * PROBES_PER_SECOND)

    async def paced(number: int) -> None:
        for tick in range(number, count, len(callers)):
            due = sent_at = started_at + tick / PROBES_PER_SECOND
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
                sent_at = time.perf_counter()
            # One that could not be sent in time because of the answer before counts from when it was due.
            answer = await connections[number].ask(callers[number].request())
            times.append(time.perf_counter() - sent_at)
            callers[number].take(answer)

    async with asyncio.TaskGroup() as group:
        for number in range(len(callers)):
            group.create_task(paced(number))
    for connection in connections:
        connection.close()
    return times


async def sign_up(port: int, count: int) -> list[str]:
    """Open accounts and return their addresses."""
    emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(count)]
    (connection,) = await connect(port, 1)
    for email in emails:
        body = {"email": email, "password": PASSWORD}
        read(await connection.ask(post_json("/auth/register", body)), CREATED)
    connection.close()
    return emails


async def open_sessions(port: int, emails: Iterable[str]) -> list[Caller]:
    """Log users in; what is returned goes on from there."""
    (connection,) = await connect(port, 1)
    answers = [read(await connection.ask(login(email, PASSWORD))) for email in emails]
    connection.close()
    return [Refreshing(answer["refresh_token"]) for answer in answers]


@contextmanager
def on(cores: Cores) -> Iterator[None]:
    """Run this thread, and the processes that it starts, on these cores; where the system cannot, on any."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def usable_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


class Server:
    """The service as a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        """Choose a port; nothing is started yet."""
        with socket.socket() as probing:
            probing.bind((HOST, 0))
            self.port: int = probing.getsockname()[1]
        # Byte code is cached, as on a machine as it comes.
        left_out = ("OSTIARY_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        self._log = data_dir / "log"
        self._environ = {
            **inherited,
            "OSTIARY_DATA_DIR": str(data_dir),
            "OSTIARY_AUTH_PORT": str(self.port),
            "OSTIARY_AUTH_TRUSTED_PROXIES": HOST,
            "OSTIARY_LOG_FORMAT": "json",
        }

    @contextmanager
    def running(self) -> Iterator[float]:
        """Run it; yields the seconds from its start until it was ready."""
        with self._log.open("ab") as log:
            started_at = time.perf_counter()
            process = subprocess.Popen([AUTH, "serve"], env=self._environ, stdout=log, stderr=log)  # noqa: S603 - ours
        try:
            while not self._is_ready():
                if process.poll() is not None or time.perf_counter() - started_at > READY_SECONDS:
                    raise RuntimeError(f"the service does not start:\n{self._log.read_text()[-2000:]}")
                time.sleep(POLL_SECONDS)
            self.pid = process.pid
            yield time.perf_counter() - started_at
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def command(self, *arguments: str) -> str:
        """Run the command line on the same data and return what it prints."""
        done = subprocess.run([AUTH, *arguments], env=self._environ, capture_output=True, text=True, check=True)  # noqa: S603 - ours
        return done.stdout.strip()

    def memory(self) -> float:
        """Return the megabytes that it has in memory; 0 where the system does not say."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return 0.0
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(request("GET", "/readyz", b"", "Connection: close"))
                return connection.recv(64).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False


def starts() -> Row:
    """Measure how long a start takes, on a new data folder and on the same once more, and the memory after it."""
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    memory: dict[str, list[float]] = {"first": [], "second": []}
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            server = Server(Path(folder))
            for name, each in seconds.items():
                with server.running() as took:
                    each.append(took)
                    memory[name].append(server.memory())
    return {
        **{f"{name}_seconds": summary(values, 3) for name, values in seconds.items()},
        **{f"{name}_memory_mb": summary(values, 1) for name, values in memory.items()},
    }


def openssl_signs() -> float | None:
    """Return how often a second OpenSSL's own benchmark signs, if there is one."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-mr", "-seconds", str(LIMIT_SECONDS), "rsa2048"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the system's own
    found = re.search(r"^\+F2:\d+:2048:([\d.]+):", done.stdout, re.MULTILINE)
    return float(found[1]) if found else None


def openssl_version() -> str | None:
    """Return which OpenSSL that is."""
    program = shutil.which("openssl")
    if program is None:
        return None
    return subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - the system's own


def rate(call: Callable[[], object]) -> float:
    """Return how often a second a call can be made, one after the other."""
    count, started_at = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started_at) < LIMIT_SECONDS:
        call()
        count += 1
    return count / elapsed


@dataclass(slots=True)
class Rounds:
    """Rates by name, round by round, and of our own all times and what the load took."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)

    def limit(self, name: str, value: float | None) -> None:
        """Note what the machine can do."""
        if value is not None:
            self.rates.setdefault(name, []).append(value)

    def ours(self, name: str, outcome: Load) -> None:
        """Note what the service did."""
        self.rates.setdefault(name, []).append(outcome.rate)
        self.busy.setdefault(name, []).append(outcome.busy)
        self.times.setdefault(name, []).extend(itertools.chain.from_iterable(outcome.times.values()))

    def row(self, name: str, *limits: str) -> Row:
        """Sum up; with the shares of those limits that were measured."""
        row: Row = {"per_second": summary(self.rates[name], 1)}
        if name in self.times:
            row |= {**milliseconds(self.times[name]), "load_busy": round(statistics.median(self.busy[name]), 2)}
        for limit in limits:
            if limit in self.rates:
                shares = [ours / most for ours, most in zip(self.rates[name], self.rates[limit], strict=True)]
                row[f"share_of_{limit}"] = summary(shares, 3)
        return row


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service runs, and where the load."""

    server: Cores
    load: Cores


def rates(place: Place) -> Row:
    """Measure tokens and logins a second, in turn with what bounds them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = Server(Path(folder))
        with on(place.server):
            stack.enter_context(server.running())
        stack.enter_context(on(place.load))
        memory: Row = {"ready_mb": round(server.memory(), 1)}
        secret = server.command("clients", "create", "bench", "--scope", "orders:read")
        emails = asyncio.run(sign_up(server.port, USERS))
        memory["after_sign_up_mb"] = round(server.memory(), 1)
        tokens = token_rounds(place, server, secret, emails)
        memory["after_tokens_mb"] = round(server.memory(), 1)
        logins = login_rounds(place, server, emails)
        memory["after_logins_mb"] = round(server.memory(), 1)
    return {
        "signs": {name: tokens.row(name) for name in ("openssl", "cryptography") if name in tokens.rates},
        "client_credentials": tokens.row("client_credentials", "openssl", "cryptography"),
        "refresh": tokens.row("refresh", "openssl", "cryptography"),
        "argon2": logins.row("argon2"),
        "login": logins.row("login", "argon2"),
        "memory": memory,
    }


def token_rounds(place: Place, server: Server, secret: str, emails: list[str]) -> Rounds:
    """Measure tokens for a client and for sessions, and RSA signatures alone."""
    key = rsa.generate_private_key(65537, 2048)
    content, padding, digest = secrets.token_bytes(SIGNED_BYTES), PKCS1v15(), SHA256()
    form = {"grant_type": "client_credentials", "client_id": "bench", "client_secret": secret}
    media_type = "Content-Type: application/x-www-form-urlencoded"
    asking = Repeating(request("POST", "/oauth/token", urlencode(form).encode(), media_type))
    sessions = asyncio.run(open_sessions(server.port, emails[:TOKEN_CONNECTIONS]))
    callers: dict[str, list[Caller]] = {"client_credentials": [asking] * TOKEN_CONNECTIONS, "refresh": sessions}
    for each in callers.values():
        asyncio.run(load(server.port, each, 0.5))
    rounds = Rounds()
    for _ in range(ROUNDS):
        with on(place.server):
            rounds.limit("openssl", openssl_signs())
            rounds.limit("cryptography", rate(lambda: key.sign(content, padding, digest)))
        for name, each in callers.items():
            rounds.ours(name, asyncio.run(load(server.port, each, TOKEN_SECONDS)))
    return rounds


def login_rounds(place: Place, server: Server, emails: list[str]) -> Rounds:
    """Measure logins, and Argon2 alone."""
    hasher = argon2.PasswordHasher(
        time_cost=passwords.ITERATIONS,
        memory_cost=passwords.MEMORY_KIB,
        parallelism=passwords.LANES,
        hash_len=passwords.HASH_BYTES,
        salt_len=passwords.SALT_BYTES,
    )
    hashed = hasher.hash(PASSWORD)
    callers = [LoggingIn(emails[number::LOGIN_CONNECTIONS]) for number in range(LOGIN_CONNECTIONS)]
    rounds = Rounds()
    for _ in range(ROUNDS):
        with on(place.server):
            rounds.limit("argon2", rate(lambda: hasher.verify(hashed, PASSWORD)))
        rounds.ours("login", asyncio.run(load(server.port, callers, LOGIN_SECONDS)))
    return rounds


def storm(port: int) -> Load:
    """Guess passwords as fast as the answers come. It runs in a process of its own, not to delay the probes."""
    return asyncio.run(load(port, [Guessing() for _ in range(STORM_CONNECTIONS)], STORM_LEAD_SECONDS + STORM_SECONDS))


def storms(place: Place) -> Row:
    """Measure how long a refresh and the keys take, quiet and during a storm of logins, in turn."""
    times: dict[str, list[list[float]]] = {}
    guesses = Load()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = Server(Path(folder))
        with on(place.server):
            stack.enter_context(server.running())
        stack.enter_context(on(place.load))
        pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        pool.submit(os.getpid).result()
        sessions = asyncio.run(prepare_sessions(server.port))
        for number in range(2 * STORM_PAIRS):
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
    """Open the sessions that are refreshed."""
    return await open_sessions(port, await sign_up(port, PROBE_CONNECTIONS))


async def slice_of(port: int, sessions: list[Caller], pool: Executor | None, guesses: Load) -> dict[str, list[float]]:
    """Measure for one slice, during a storm if there is a pool to make it, and add up its guesses."""
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


def summary(values: Iterable[float], digits: int) -> Row:
    """Return the median and the spread."""
    ordered = sorted(values)
    figures = {"median": statistics.median(ordered), "lowest": ordered[0], "highest": ordered[-1]}
    return {name: round(value, digits) for name, value in figures.items()}


def slices(values: list[list[float]]) -> Row:
    """Sum up times over all slices, and how far the slices' 99th percentiles are apart."""
    spread = summary((percentile(each, 0.99) * 1000 for each in values), 2)
    return {**milliseconds(itertools.chain(*values)), "p99_ms_of_slices": spread}


def milliseconds(seconds: Iterable[float]) -> Row:
    """Return the percentiles of times."""
    ordered = sorted(seconds)
    return {f"p{share}_ms": round(percentile(ordered, share / 100) * 1000, 2) for share in (50, 99)}


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * share)]


def show(row: Row, depth: int = 0) -> None:
    """Print results, one a line."""
    for name, value in row.items():
        label = "  " * depth + name
        if not isinstance(value, dict):
            print(f"{label:36}{value:>12}")
        elif value.keys() == {"median", "lowest", "highest"}:
            print(f"{label:36}{value['median']:>12}   {value['lowest']} .. {value['highest']}")
        else:
            print(label)
            show(value, depth + 1)


def main() -> None:
    """Measure, print and store."""
    cores = usable_cores()
    apart = Place(frozenset(cores[:1]), frozenset(cores[-1:]))
    everywhere = Place(frozenset(cores), frozenset(cores))
    measured: dict[str, Callable[[], Row]] = {
        "start": starts,
        "rates_on_one_core": lambda: rates(apart),
        "storm_on_one_core": lambda: storms(apart),
        "storm_on_all_cores": lambda: storms(everywhere),
    }
    print(f"The auth service on SQLite, {len(cores)} cores; medians, and the lowest and highest of the rounds")
    result: Row = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(cores),
        "versions": {name: version(name) for name in ("ostiary-auth", "cryptography", "argon2-cffi")},
        "openssl": openssl_version(),
    }
    for name, measure in measured.items():
        result[name] = measure()
        show({name: result[name]})
    path = Path(__file__).parent / "results" / "auth.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to bench/results/{path.name}")


if __name__ == "__main__":
    main()
