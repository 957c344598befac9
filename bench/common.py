"""What the benchmarks share: processes and where they run, HTTP over plain connections, load, figures, and `main`."""

import argparse
import asyncio
import ipaddress
import json
import math
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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, cast

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.005

#: Connections over which accounts and sessions are opened: as many as keep the hashing of passwords busy.
OPENING_CONNECTIONS = 4

HOST = "127.0.0.1"
PASSWORD = "a long enough password"  # noqa: S105 - made up
OK, CREATED = 200, 201

#: Finds the length of a message's body in its head.
CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

Cores = frozenset[int]
Row = dict[str, object]

#: How much is measured, as a benchmark says it; and what a round gives.
Scale = TypeVar("Scale")
Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and when."""

    status: int
    body: bytes
    at: float


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


class Connection(asyncio.Protocol):
    """A connection that stays open, with one request on its way at a time."""

    _transport: asyncio.Transport
    _answer: asyncio.Future[Answer] | None = None
    _received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer comes later. Raises ConnectionResetError if the other side has closed."""
        if self._transport.is_closing():
            raise ConnectionResetError("closed before the question")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Give the answer out when it is whole."""
        received_at = time.perf_counter()
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self._received = b""
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(Answer(int(head[9:12]), body, received_at))

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nobody waiting."""
        if self._answer is not None and not self._answer.done():
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
        return self.answers / self.seconds

    @property
    def answers(self) -> int:
        """How many answers there were."""
        return sum(map(len, self.times.values()))

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
    outcome = await drive(connections, asking, seconds)
    for connection in connections:
        connection.close()
    return outcome


async def drive(connections: Iterable[Connection], callers: Iterable[Caller], seconds: float) -> Load:
    """Let callers ask as fast as the answers come, over these connections."""
    outcome = Load()
    started_at, busy_from = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for connection, caller in zip(connections, callers, strict=True):
            group.create_task(_hammer(connection, caller, started_at + seconds, outcome))
    outcome.seconds = time.perf_counter() - started_at
    outcome.busy_seconds = time.process_time() - busy_from
    return outcome


async def _hammer(connection: Connection, caller: Caller, until: float, outcome: Load) -> None:
    """Ask over one connection until the time is up."""
    while (sent_at := time.perf_counter()) < until:
        answer = await connection.ask(caller.request())
        outcome.add(answer.status, time.perf_counter() - sent_at)
        caller.take(answer)


async def ask_all(port: int, requests: Sequence[bytes], *expected: int) -> list[Any]:
    """Return the documents that answer these requests, asked over a few connections."""
    documents: list[Any] = [None] * len(requests)
    waiting = iter(enumerate(requests))
    connections = await connect(port, min(OPENING_CONNECTIONS, len(requests)))

    async def ask(connection: Connection) -> None:
        for number, each in waiting:
            documents[number] = read(await connection.ask(each), *expected)

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(ask(connection))
    for connection in connections:
        connection.close()
    return documents


async def sign_up(port: int, count: int) -> list[str]:
    """Open accounts and return their addresses."""
    emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(count)]
    accounts = [post_json("/auth/register", {"email": email, "password": PASSWORD}) for email in emails]
    await ask_all(port, accounts, CREATED)
    return emails


async def log_in(port: int, emails: Iterable[str]) -> list[dict[str, Any]]:
    """Open a session for each of these and return what the logins answered."""
    return await ask_all(port, [login(email, PASSWORD) for email in emails])


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service runs, and where the load."""

    server: Cores
    load: Cores

    @classmethod
    def apart(cls) -> "Place":
        """Return a place with a core for each, as far as there are two."""
        cores = usable_cores()
        return cls(frozenset(cores[:1]), frozenset(cores[-1:]))

    @classmethod
    def everywhere(cls) -> "Place":
        """Return all cores, for both."""
        cores = frozenset(usable_cores())
        return cls(cores, cores)


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


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Process:
    """A program as a process of its own."""

    pid = 0

    def __init__(self, command: Sequence[str], log: Path, is_ready: Callable[[], bool], **settings: str) -> None:
        """Nothing is started yet. What the program prints goes to `log`; `settings` are added to its environment."""
        # Byte code is cached, as on a machine as it comes.
        left_out = ("OSTIARY_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        self.environ = {**inherited, **settings}
        self._command = command
        self._log = log
        self._is_ready = is_ready

    @contextmanager
    def running(self) -> Iterator[float]:
        """Run it; yields the seconds from its start until it was ready."""
        with self._log.open("ab") as log:
            started_at = time.perf_counter()
            process = subprocess.Popen(self._command, env=self.environ, stdout=log, stderr=log)  # noqa: S603 - ours
        try:
            while not self._is_ready():
                if process.poll() is not None or time.perf_counter() - started_at > READY_SECONDS:
                    raise RuntimeError(f"{self._command[0]} does not start:\n{self._log.read_text()[-2000:]}")
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

    def memory(self) -> float:
        """Return the megabytes that it and its children have in memory; 0 where the system does not say."""
        return sum(map(memory, family(self.pid))) / 1e6

    def forget_peak(self) -> None:
        """Begin anew to keep in mind what it had in memory at most."""
        for pid in family(self.pid):
            # 5 resets VmHWM: proc(5).
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_memory(self) -> float:
        """Return the megabytes that it and its children had in memory at most; 0 where the system does not say."""
        return sum(memory(pid, "VmHWM") for pid in family(self.pid)) / 1e6

    def cpu_seconds(self) -> float:
        """Return the seconds that it and its children have been on a core; 0 where the system does not say."""
        return sum(map(cpu_seconds, family(self.pid)))


class Service(Process):
    """One of our services, on a port of its own."""

    def __init__(self, name: str, data_dir: Path, *, port: int | None = None, **settings: str) -> None:
        """Choose a port, if none is given; nothing is started yet."""
        self.port = free_ports(1)[0] if port is None else port
        self._program = str(Path(sys.executable).with_name(f"ostiary-{name}"))
        ours = {
            "OSTIARY_DATA_DIR": str(data_dir),
            "OSTIARY_AUTH_TRUSTED_PROXIES": HOST,
            "OSTIARY_LOG_FORMAT": "json",
            **settings,
            f"OSTIARY_{name.upper()}_PORT": str(self.port),
        }
        log = data_dir / f"{name}-{self.port}.log"
        super().__init__([self._program, "serve"], log, lambda: answers(self.port, "/readyz"), **ours)

    def command(self, *arguments: str) -> str:
        """Run the command line on the same data and return what it prints."""
        command = [self._program, *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True)  # noqa: S603 - ours
        return done.stdout.strip()


def answers(port: int, path: str) -> bool:
    """Return whether somebody answers 200 there."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(request("GET", path, b"", "Connection: close"))
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def listens(port: int) -> bool:
    """Return whether somebody takes connections there."""
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def family(pid: int) -> list[int]:
    """Return a process with its children and theirs; none where the system does not say."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for each in lists for child in each.read_text().split()]
    return [pid, *(one for child in children for one in family(child))] if Path(f"/proc/{pid}").exists() else []


def memory(pid: int, which: str = "VmRSS") -> int:
    """Return the bytes that a process has in memory, or had at most (`VmHWM`); 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """Return the seconds that a process has been on a core."""
    # The second field is a name in brackets; the times are the fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Hit:
    """What one round of load came to: requests a second, and the milliseconds that 99 of 100 took at most."""

    rate: float
    p99_ms: float


def hit(port: int, path: str, seconds: float, connections: int, *options: str) -> Hit:
    """Ask with wrk as fast as the answers come. Raises RuntimeError if not all of them are good."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--latency", *options]
    command += ["--duration", f"{math.ceil(seconds)}s", f"http://{HOST}:{port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout  # noqa: S603 - ours
    rate, slowest = _WRK_RATE.search(said), _WRK_P99.search(said)
    if rate is None or slowest is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk says of port {port}:\n{said}")
    return Hit(float(rate[1]), float(slowest[1]) * _IN_MS[slowest[2]])


_WRK_RATE = re.compile(r"Requests/sec: +([\d.]+)")
_WRK_P99 = re.compile(r"^ +99% +([\d.]+)(us|ms|s)$", re.MULTILINE)
_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def in_turn(contenders: Mapping[str, Callable[[], Figure]], count: int) -> dict[str, list[Figure]]:
    """Measure all contenders so many times, and once before that does not count; another begins in each round."""
    rounds: dict[str, list[Figure]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(count + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figure = contenders[name]()
            if number > 0:
                rounds[name].append(figure)
    return rounds


def side_by_side(contenders: Mapping[str, Callable[[], Hit]], count: int) -> Row:
    """Load contenders in turn; return their figures, and those of the first over those of each other one."""
    rounds = in_turn(contenders, count)
    rates = {name: [each.rate for each in hits] for name, hits in rounds.items()}
    slowest = {name: [each.p99_ms for each in hits] for name, hits in rounds.items()}
    rows = {name: {"per_second": summary(rates[name], 1), "p99_ms": summary(slowest[name], 2)} for name in rounds}
    return {**rows, **quotients(rates), **quotients(slowest, "p99_over")}


def quotients(rounds: Mapping[str, Sequence[float]], link: str = "over") -> Row:
    """Return the median of the first over that of each other one."""
    (first, *others), medians = rounds, {name: statistics.median(values) for name, values in rounds.items()}
    return {f"{first}_{link}_{other}": round(medians[first] / medians[other], 3) for other in others}


def summary(values: Iterable[float], digits: int) -> Row:
    """Return the median and the spread."""
    ordered = sorted(values)
    figures = {"median": statistics.median(ordered), "lowest": ordered[0], "highest": ordered[-1]}
    return {name: round(value, digits) for name, value in figures.items()}


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
            print(f"{label:36}{value!s:>12}")
        elif value.keys() == {"median", "lowest", "highest"}:
            print(f"{label:36}{value['median']:>12}   {value['lowest']} .. {value['highest']}")
        else:
            print(label)
            show(value, depth + 1)


def circumstances() -> Row:
    """Return when and where this is measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(usable_cores()),
    }


def versions(libraries: Iterable[str], programs: Mapping[str, str]) -> Row:
    """Return the versions of what takes part; programs, as far as they are installed, say theirs to an option."""
    found: Row = {name: version(name) for name in libraries}
    for name, option in programs.items():
        path = shutil.which(name)
        if path is not None:
            said = subprocess.run([path, option], capture_output=True, text=True, check=False)  # noqa: S603 - the system's own
            match = re.search(r"\d+\.\d+(?:\.\d+)?", said.stdout + said.stderr)
            found[name] = match[0] if match else None
    return found


def measure(
    name: str, parts: Mapping[str, Callable[[Scale], Row]], full: Scale, quick: Scale, *, seconds: int, taking_part: Row
) -> None:
    """Measure the parts that the command line names, or all, and print them; only all of them in full are stored.

    That is the whole `main` of a benchmark. All of it may take so many seconds; it is ended by then. `taking_part` are
    the versions.
    """
    parser = argparse.ArgumentParser(description=f"Measure what bench/results/{name}.json holds.")
    parser.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(parts)}; by default, all of it")
    parser.add_argument("--quick", action="store_true", help="do less of everything, to see that it works")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - parts.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGALRM, _end)
    signal.signal(signal.SIGTERM, _end)
    signal.alarm(seconds)
    result: Row = {**circumstances(), "versions": taking_part}
    for part in arguments.parts or parts:
        result[part] = parts[part](quick if arguments.quick else full)
        show({part: result[part]})
    if not arguments.quick and not arguments.parts:
        write(name, result)


def _end(number: int, _frame: object) -> NoReturn:
    """End it early. What was started is ended on the way out."""
    raise SystemExit(f"ended by {signal.Signals(number).name}: time is up, or somebody says so")


def write(name: str, result: Row) -> None:
    """Store results."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to bench/results/{path.name}")
