"""Shared by the benchmarks: processes and CPU pinning, HTTP over plain connections, load, statistics, and `main`."""

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

#: Connections for creating accounts and sessions: enough to keep password hashing busy.
OPENING_CONNECTIONS = 4

HOST = "127.0.0.1"
PASSWORD = "a long enough password"  # noqa: S105 - made up
OK, CREATED = 200, 201

CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

Cores = frozenset[int]
Row = dict[str, object]

#: How much a benchmark measures; the result of a round.
Scale = TypeVar("Scale")
Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `at` is when it was complete."""

    status: int
    body: bytes
    at: float
    head: bytes = b""


class Caller(Protocol):
    """A client on one connection."""

    def request(self) -> bytes:
        """Return the next request."""

    def take(self, answer: Answer) -> None:
        """Process the response. Raises RuntimeError for an unexpected one."""


class Repeating:
    """Sends the same request again and again."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def request(self) -> bytes:
        return self._request

    def take(self, answer: Answer) -> None:
        read(answer)


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request in flight at a time."""

    _transport: asyncio.Transport
    _answer: asyncio.Future[Answer] | None = None
    _received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future gets the response. Raises ConnectionResetError if the peer has closed."""
        if self._transport.is_closing():
            raise ConnectionResetError("closed before the request")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        received_at = time.perf_counter()
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self._received = b""
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(Answer(int(head[9:12]), body, received_at, head))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer"))

    def close(self) -> None:
        self._transport.close()


@dataclass(slots=True)
class Load:
    """The outcome of one round of load. Times are in seconds, by status."""

    times: dict[int, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    busy_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Responses per second."""
        return self.answers / self.seconds

    @property
    def answers(self) -> int:
        return sum(map(len, self.times.values()))

    @property
    def busy(self) -> float:
        """The share of a core that the load generator used."""
        return self.busy_seconds / self.seconds

    def add(self, status: int, seconds: float) -> None:
        self.times.setdefault(status, []).append(seconds)


def request(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


def post_json(path: str, document: object, *fields: str) -> bytes:
    return request("POST", path, json.dumps(document).encode(), "Content-Type: application/json", *fields)


def login(email: str, password: str) -> bytes:
    return post_json("/auth/login", {"email": email, "password": password}, from_somewhere())


def from_somewhere() -> str:
    """Return a field with a random source address, so that no throttle counts the request with another."""
    return f"X-Forwarded-For: {ipaddress.IPv4Address((10 << 24) + secrets.randbits(24))}"


def read(answer: Answer, *expected: int) -> Any:
    """Return a response's document. Raises RuntimeError for an error response."""
    if answer.status not in (expected or (OK,)):
        raise RuntimeError(f"the service answered {answer.status}: {answer.body.decode()}")
    return json.loads(answer.body)


async def connect(port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, HOST, port))[1] for _ in range(count)]


async def load(port: int, callers: Iterable[Caller], seconds: float) -> Load:
    """Send requests as fast as responses arrive, with one connection per client."""
    asking = list(callers)
    connections = await connect(port, len(asking))
    outcome = await drive(connections, asking, seconds)
    for connection in connections:
        connection.close()
    return outcome


async def drive(connections: Iterable[Connection], callers: Iterable[Caller], seconds: float) -> Load:
    """Send requests as fast as responses arrive, over these connections."""
    outcome = Load()
    started_at, busy_from = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for connection, caller in zip(connections, callers, strict=True):
            group.create_task(_send_repeatedly(connection, caller, started_at + seconds, outcome))
    outcome.seconds = time.perf_counter() - started_at
    outcome.busy_seconds = time.process_time() - busy_from
    return outcome


async def _send_repeatedly(connection: Connection, caller: Caller, until: float, outcome: Load) -> None:
    while (sent_at := time.perf_counter()) < until:
        answer = await connection.ask(caller.request())
        outcome.add(answer.status, time.perf_counter() - sent_at)
        caller.take(answer)


async def ask_all(port: int, requests: Sequence[bytes], *expected: int) -> list[Any]:
    """Return the responses' documents; requests share a few connections."""
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
    """Create accounts and return their addresses."""
    emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(count)]
    accounts = [
        post_json("/auth/register", {"email": email, "password": PASSWORD}, from_somewhere()) for email in emails
    ]
    await ask_all(port, accounts, CREATED)
    return emails


async def log_in(port: int, emails: Iterable[str]) -> list[dict[str, Any]]:
    """Log these users in and return the documents of the responses."""
    return await ask_all(port, [login(email, PASSWORD) for email in emails])


@dataclass(frozen=True, slots=True)
class Place:
    """The cores of the server and of the load generator."""

    server: Cores
    load: Cores

    @classmethod
    def apart(cls) -> "Place":
        """One core each, if there are two."""
        cores = usable_cores()
        return cls(frozenset(cores[:1]), frozenset(cores[-1:]))

    @classmethod
    def everywhere(cls) -> "Place":
        """All cores for both."""
        cores = frozenset(usable_cores())
        return cls(cores, cores)


@contextmanager
def on(cores: Cores) -> Iterator[None]:
    """Pin this thread, and the processes that it starts, to these cores. Does nothing except on Linux."""
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
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Process:
    """A program in a process of its own."""

    pid = 0

    def __init__(self, command: Sequence[str], log: Path, is_ready: Callable[[], bool], **settings: str) -> None:
        """Prepare a program; its output goes to `log`, and `settings` are added to its environment."""
        # Cache byte code, as an ordinary machine does.
        left_out = ("OSTIARY_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        # Nobody distributes requests to the services.
        delays = {f"OSTIARY_{name}_DRAIN_DELAY": "0" for name in ("AUTH", "GATEWAY", "PROFILE")}
        self.environ = {**inherited, **delays, **settings}
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
                    raise RuntimeError(f"{self._command[0]} did not start:\n{self._log.read_text()[-2000:]}")
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
        """Return the resident memory of the process and its descendants in MB; 0 if unknown."""
        return sum(map(memory, process_tree(self.pid))) / 1e6

    def forget_peak(self) -> None:
        """Reset the peak of resident memory."""
        for pid in process_tree(self.pid):
            # 5 resets VmHWM: proc(5).
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_memory(self) -> float:
        """Return the peak of resident memory of the process and its descendants in MB; 0 if unknown."""
        return sum(memory(pid, "VmHWM") for pid in process_tree(self.pid)) / 1e6

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and its descendants; 0 if unknown."""
        return sum(map(cpu_seconds, process_tree(self.pid)))


class Service(Process):
    """One of our services, on a port of its own."""

    def __init__(self, name: str, data_dir: Path, *, port: int | None = None, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_ports(1)[0] if port is None else port
        self._program = str(Path(sys.executable).with_name(f"ostiary-{name}"))
        ours = {
            "OSTIARY_DATA_DIR": str(data_dir),
            "OSTIARY_AUTH_TRUSTED_PROXIES": HOST,
            "OSTIARY_LOG_FORMAT": "json",
            # One port to ask.
            "OSTIARY_GATEWAY_PUBLIC_OPERATIONS": "/readyz,/metrics",
            **settings,
            f"OSTIARY_{name.upper()}_PORT": str(self.port),
        }
        log = data_dir / f"{name}-{self.port}.log"
        super().__init__([self._program, "serve"], log, lambda: answers(self.port, "/readyz"), **ours)

    def command(self, *arguments: str) -> str:
        """Run a command of the service on the same data and return its output."""
        command = [self._program, *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True)  # noqa: S603 - ours
        return done.stdout.strip()


def answers(port: int, path: str) -> bool:
    """Return whether a GET of this path returns 200."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(request("GET", path, b"", "Connection: close"))
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants; empty if unknown."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for each in lists for child in each.read_text().split()]
    return [pid, *(one for child in children for one in process_tree(child))] if Path(f"/proc/{pid}").exists() else []


def memory(pid: int, which: str = "VmRSS") -> int:
    """Return the resident memory of a process in bytes, or its peak (`VmHWM`); 0 if unknown."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    # The second field is a name in brackets; CPU times are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Hit:
    """The outcome of one round with wrk: requests per second, and the 99th percentile of latency."""

    rate: float
    p99_ms: float


def hit(port: int, path: str, seconds: float, connections: int, *options: str) -> Hit:
    """Load a path with wrk. Raises RuntimeError unless all responses are 2xx."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--latency", *options]
    command += ["--duration", f"{math.ceil(seconds)}s", f"http://{HOST}:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout  # noqa: S603 - ours
    rate, slowest = _WRK_RATE.search(output), _WRK_P99.search(output)
    if rate is None or slowest is None or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"wrk failed for port {port}:\n{output}")
    return Hit(float(rate[1]), float(slowest[1]) * _IN_MS[slowest[2]])


_WRK_RATE = re.compile(r"Requests/sec: +([\d.]+)")
_WRK_P99 = re.compile(r"^ +99% +([\d.]+)(us|ms|s) *$", re.MULTILINE)
_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def in_turn(contenders: Mapping[str, Callable[[], Figure]], count: int) -> dict[str, list[Figure]]:
    """Measure all contenders `count` times, after a warm-up round; each round starts with another one."""
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
    """Load contenders in turn; return their results, and the ratios of the first to each other one."""
    rounds = in_turn(contenders, count)
    rates = {name: [each.rate for each in hits] for name, hits in rounds.items()}
    slowest = {name: [each.p99_ms for each in hits] for name, hits in rounds.items()}
    rows = {name: {"per_second": summary(rates[name], 1), "p99_ms": summary(slowest[name], 2)} for name in rounds}
    return {**rows, **ratios(rates), **ratios(slowest, "p99_over")}


def ratios(rounds: Mapping[str, Sequence[float]], link: str = "over") -> Row:
    """Return the ratios of the first one's median to each other one's."""
    (first, *others), medians = rounds, {name: statistics.median(values) for name, values in rounds.items()}
    return {f"{first}_{link}_{other}": round(medians[first] / medians[other], 3) for other in others}


def summary(values: Iterable[float], digits: int) -> Row:
    """Return median, minimum and maximum."""
    ordered = sorted(values)
    figures = {"median": statistics.median(ordered), "lowest": ordered[0], "highest": ordered[-1]}
    return {name: round(value, digits) for name, value in figures.items()}


def milliseconds(seconds: Iterable[float]) -> Row:
    """Return percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{share}_ms": round(percentile(ordered, share / 100) * 1000, 2) for share in (50, 99)}


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[int(len(ordered) * share)]


def show(row: Row, depth: int = 0) -> None:
    for name, value in row.items():
        label = "  " * depth + name
        if not isinstance(value, dict):
            print(f"{label:36}{value!s:>12}")
        elif value.keys() == {"median", "lowest", "highest"}:
            print(f"{label:36}{value['median']:>12}   {value['lowest']} .. {value['highest']}")
        else:
            print(label)
            show(value, depth + 1)


def environment() -> Row:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(usable_cores()),
    }


def versions(libraries: Iterable[str], programs: Mapping[str, str]) -> Row:
    """Return the versions of libraries, and of programs that are installed; each program has its version option."""
    found: Row = {name: version(name) for name in libraries}
    for name, option in programs.items():
        path = shutil.which(name)
        if path is not None:
            output = subprocess.run([path, option], capture_output=True, text=True, check=False)  # noqa: S603 - the system's own
            match = re.search(r"\d+\.\d+(?:\.\d+)?", output.stdout + output.stderr)
            found[name] = match[0] if match else None
    return found


def measure(
    name: str,
    parts: Mapping[str, Callable[[Scale], Row]],
    full: Scale,
    quick: Scale,
    *,
    seconds: int,
    participants: Row,
    after: Callable[[], None] | None = None,
) -> None:
    """Measure the parts named on the command line, or all, and print the results: the `main` of a benchmark.

    Results are stored only if all parts ran in full; `after` is called then. The run is aborted after `seconds`.
    """
    parser = argparse.ArgumentParser(description=f"Measure what bench/results/{name}.json holds.")
    parser.add_argument("parts", nargs="*", help=f"parts to measure: {', '.join(parts)}; default: all")
    parser.add_argument("--quick", action="store_true", help="short functional check; writes no results")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - parts.keys():
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGALRM, _end)
    signal.signal(signal.SIGTERM, _end)
    signal.alarm(seconds)
    result: Row = {**environment(), "versions": participants}
    for part in arguments.parts or parts:
        result[part] = parts[part](quick if arguments.quick else full)
        show({part: result[part]})
    if not arguments.quick and not arguments.parts:
        write(name, result)
        if after is not None:
            after()


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(f"aborted by {signal.Signals(number).name}")


def write(name: str, result: Row) -> None:
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to bench/results/{path.name}")
