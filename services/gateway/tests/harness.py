"""A gateway between clients and an upstream, all in one process, on unix sockets that have no addresses."""

import asyncio
import io
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import h11
import httpx
import uvicorn.server
from prometheus_client import CollectorRegistry

from ostiary import Verifier
from ostiary_chassis.logs import LogFormat
from ostiary_chassis.metrics import RequestMetrics
from ostiary_gateway.app import Gateway
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.observability.access_log import AccessLog
from ostiary_gateway.observability.tracing import Tracing
from ostiary_gateway.proxy.downstream import ClientConnection
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.upstream.cluster import Cluster

#: Seconds after which what has not happened will not.
PATIENCE = 10.0

#: Of clients that never use it: to read the machine's certificates for each of them would take 20 ms.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Fields = list[tuple[str, str]]


#: As often all that runs here may go on before nothing is left to do. Sockets of this kind know no delay, so what has
#: changed nothing in so many turns of the event loop waits for something: for somebody else, or for a time.
TURNS = 200


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when something has become true. Raises TimeoutError."""
    turns = 0
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0 if turns < TURNS else 0.002)
            turns += 1


async def never(condition: Callable[[], object]) -> None:
    """Return if something does not become true with all that is there to be done."""
    for _ in range(TURNS):
        assert not condition(), "it has happened"
        await asyncio.sleep(0)


async def settled(measure: Callable[[], int]) -> int:
    """Return what a measure comes to when all is done that is there to be done."""
    value, turns = measure(), 0
    while turns < TURNS:
        await asyncio.sleep(0)
        before, value = value, measure()
        turns = turns + 1 if value == before else 0
    return value


class Clock:
    """The time of this process: of the gateway, its upstream, its clients and the event loop. It can be put forward."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin with the real time."""
        self._monotonic = monotonic
        self._ahead = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self._monotonic() + self._ahead

    def skip(self, seconds: float) -> None:
        """Put the clock forward. What is due by then happens at the next turn of the event loop."""
        self._ahead += seconds


@contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory whose name leaves room for that of a socket: its path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        yield Path(name)


@dataclass
class Received:
    """A request, as an upstream got it."""

    head: bytes
    connection: "Connection"
    method: str = ""
    target: str = ""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    is_complete: bool = False

    def __post_init__(self) -> None:
        """Take the head apart."""
        line, *lines = self.head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.method, self.target, version = line.split(" ")
        assert version == "HTTP/1.1"
        self.fields = _fields(lines)

    def values(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for each, value in self.fields if each == name]

    async def read_body(self) -> bytes:
        """Read what comes after the head, once."""
        if not self.is_complete:
            length, coding = self.values("content-length"), self.values("transfer-encoding")
            if coding:
                assert (coding, length) == (["chunked"], [])
                await self._read_chunks()
            elif length:
                self.body = await self.connection.reader.readexactly(int(length[0]))
            self.is_complete = True
        return self.body

    async def _read_chunks(self) -> None:
        reader = self.connection.reader
        while size := int(await reader.readuntil(b"\r\n"), 16):
            self.body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        lines = []
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            lines.append(line.decode("latin-1").removesuffix("\r\n"))
        self.trailers = _fields(lines)


@dataclass
class Connection:
    """A connection to an upstream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_lost: bool = False

    async def wait_lost(self) -> None:
        """Return when the other side has closed it. What it sends meanwhile is dropped."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.is_lost = True


Answering = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def stopping_after(data: bytes = b"") -> Answering:
    """Answer with these bytes and nothing more, until the gateway closes the connection."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await request.connection.wait_lost()

    return answer


def leaving_after(data: bytes = b"") -> Answering:
    """Answer with these bytes, and close the connection."""

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return answer


class Held:
    """Answers with the first bytes at once, and with the others when it may go on."""

    def __init__(self, *, first: bytes = b"", then: bytes) -> None:
        """Make it."""
        self.may_go_on = asyncio.Event()
        self._first = first
        self._then = then

    async def __call__(self, _: Received, writer: asyncio.StreamWriter) -> None:
        """Answer."""
        writer.write(self._first)
        await self.may_go_on.wait()
        writer.write(self._then)


class RecordingUpstream:
    """Records requests and answers with what it got, or as it is told.

    `answer` is called when the whole request is there, or with its head alone if `is_early`.
    """

    def __init__(self, path: Path) -> None:
        """Make an upstream that listens on a socket of this path."""
        self.path = path
        self.url = f"unix:{path}"
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self.answer: bytes | Answering | None = None
        self.is_early = False
        #: Of what is not HTTP but a mistake in a test.
        self.faults: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def last(self) -> Received:
        """The last request."""
        return self.requests[-1]

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._on_connection, self.path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.faults and error is None:
            raise self.faults[0]

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self.connections.append(connection)
        task = asyncio.create_task(self._serve(connection))
        self._tasks.add(task)

    async def _serve(self, connection: Connection) -> None:
        try:
            while True:
                request = Received(await connection.reader.readuntil(b"\r\n\r\n"), connection)
                self.requests.append(request)
                if not self.is_early:
                    await request.read_body()
                await self._answer(request)
                if connection.writer.is_closing():
                    break
                await connection.writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001 - raised at the end
            self.faults.append(error)
        finally:
            connection.is_lost = True
            connection.writer.transport.abort()

    async def _answer(self, request: Received) -> None:
        writer = request.connection.writer
        if isinstance(self.answer, bytes):
            writer.write(self.answer)
        elif self.answer is not None:
            await self.answer(request, writer)
        else:
            content = json.dumps({"target": request.target, "body": request.body.decode("latin-1")}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Up: 1\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(content) + (b"" if request.method == "HEAD" else content))


@dataclass
class Answer:
    """A response, as a client understands it."""

    status: int
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    #: Statuses of the responses before it.
    interim: list[int] = field(default_factory=list)
    is_complete: bool = False

    def values(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for each, value in self.fields if each == name]

    @property
    def code(self) -> str:
        """The code of a problem document."""
        assert self.values("content-type") == ["application/problem+json"]
        return str(json.loads(self.body)["code"])


def answers(data: bytes, *methods: str) -> list[Answer]:
    """Read responses to requests with these methods; nothing may come after them."""
    found = []
    for method in methods or ("GET",):
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "gw")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(data)
        found.append(_answer(parser))
        data = parser.trailing_data[0]
    assert data == b""
    return found


def _answer(parser: h11.Connection) -> Answer:
    interim: list[int] = []
    answer: Answer | None = None
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.InformationalResponse):
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            answer = Answer(event.status_code, _decoded(event.headers), interim=interim)
        elif isinstance(event, h11.Data):
            assert answer is not None
            answer.body += event.data
        else:
            assert answer is not None, "there is no response"
            return answer
    assert answer is not None
    answer.trailers, answer.is_complete = _decoded(event.headers), True
    return answer


class Line(asyncio.Protocol):
    """A client's connection with bytes on it."""

    def __init__(self) -> None:
        """Make it."""
        self.received = b""
        self.is_closed = False
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The transport."""
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = transport  # type: ignore[assignment]  # of a stream; uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Note bytes."""
        self.received += data

    def connection_lost(self, _error: Exception | None) -> None:
        """Note the end."""
        self.is_closed = True

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.transport.write(data)

    async def has(self, part: bytes, times: int = 1) -> None:
        """Return when this has come so many times."""
        await until(lambda: self.received.count(part) >= times)

    async def closed(self) -> bytes:
        """Return all that has come when the other side has closed."""
        await until(lambda: self.is_closed)
        return self.received


class GatewayHarness:
    """A gateway and its clients."""

    def __init__(self, gateway: Gateway, path: Path, client: httpx.AsyncClient) -> None:
        """Make it of what runs."""
        self.gateway = gateway
        self.path = path
        self.client = client
        self._lines: list[Line] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        routes: str,
        upstream_url: str,
        verifier: Verifier | None,
        tracing: Tracing | None = None,
        config: GatewayConfig | None = None,
    ) -> AsyncIterator["GatewayHarness"]:
        """Run a gateway with these routes, in which `${UPSTREAM}` is the upstream's URL."""
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(short_directory())
            loaded = _loaded(routes, upstream_url)
            gateway = Gateway(config or GatewayConfig(), loaded, verifier=verifier, tracing=tracing)
            harness = await stack.enter_async_context(cls._serving(gateway, directory / "gw"))
            if verifier is not None:
                await stack.enter_async_context(gateway.app.router.lifespan_context(gateway.app))
            yield harness

    @classmethod
    @asynccontextmanager
    async def _serving(cls, gateway: Gateway, path: Path) -> AsyncIterator["GatewayHarness"]:
        loop = asyncio.get_running_loop()
        state = uvicorn.server.ServerState()
        server = await loop.create_unix_server(lambda: gateway.protocol(server_state=state, app_state={}), path)
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=_NO_TLS, uds=str(path)), base_url="http://gw", timeout=PATIENCE
        ) as client:
            harness = cls(gateway, path, client)
            try:
                yield harness
            finally:
                harness._hang_up()
                server.close()
        await until(lambda: not state.connections)
        for pool in [pool for upstream in gateway.runtime.current.upstreams.values() for pool in upstream.pools]:
            pool.close()
            await until(lambda pool=pool: not pool._open and not pool._dials)  # type: ignore[misc]  # a default

    def _hang_up(self) -> None:
        """Close all connections of clients, on both sides."""
        for line in self._lines:
            if not line.is_closed:
                line.transport.abort()
        for transport in self.transports:
            # One that is not read does not see that its client has gone.
            transport.abort()

    @property
    def transports(self) -> list[asyncio.Transport]:
        """The gateway's sides of its clients' connections."""
        return [each._transport for each in self.connections if each._transport is not None]

    @property
    def connections(self) -> list[ClientConnection]:
        """The gateway's connections with clients."""
        return [each for each in self.gateway._manager.connections if isinstance(each, ClientConnection)]

    def limit_connections(self, count: int) -> None:
        """Let there be so many connections to each address of an upstream."""
        for upstream in self.gateway.runtime.current.upstreams.values():
            for pool in upstream.pools:
                pool._queue.max_connections = count

    def upstream(self, name: str = "up") -> Cluster:
        """Return an upstream, as the gateway sees it."""
        return self.gateway.runtime.current.upstreams[name]

    async def connect(self, peer: str | None = None) -> Line:
        """Open a connection; as if it came from an address, if that matters."""
        manager = self.gateway._manager
        known = set(manager.connections)
        _, line = await asyncio.get_running_loop().create_unix_connection(Line, str(self.path))
        self._lines.append(line)
        if peer is not None:
            await until(lambda: manager.connections - known)
            (connection,) = manager.connections - known
            manager.remove(connection)
            connection.peer = peer
            manager.add(connection)
        return line

    async def connected(self) -> tuple[Line, ClientConnection]:
        """Open a connection; return both sides of it."""
        known = set(self.connections)
        line = await self.connect()
        await until(lambda: set(self.connections) - known)
        (connection,) = set(self.connections) - known
        return line, connection

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; return all that comes until the gateway closes it."""
        line = await self.connect()
        line.send(data)
        return await line.closed()

    async def ask(
        self, target: str, *lines: str, method: str = "GET", body: bytes = b"", peer: str | None = None
    ) -> Answer:
        """Send one request just as it is said here, on a connection of its own, and return the answer."""
        head = [f"{method} {target} HTTP/1.1", "Host: gw", "Connection: close", *lines, "", ""]
        line = await self.connect(peer)
        line.send("\r\n".join(head).encode("latin-1") + body)
        return answers(await line.closed(), method)[0]


class Log:
    """The access log of connections that come from now on."""

    def __init__(self, harness: GatewayHarness, kind: LogFormat = "json") -> None:
        """Have it written here."""
        self.stream = io.StringIO()
        self._log = AccessLog(RequestMetrics(CollectorRegistry()), kind, stream=self.stream)
        harness.gateway._access_log = self._log

    @property
    def text(self) -> str:
        """All of it."""
        self._log.flush()
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, object]]:
        """What each line says."""
        assert self.text.endswith("\n") or not self.text
        return [json.loads(line) for line in self.text.splitlines()]


@cache
def _loaded(routes: str, upstream_url: str) -> RoutesFile:
    """Read a routes file, each once: many tests have the same."""
    with short_directory() as directory:
        file = directory / "gateway.yaml"
        file.write_text(routes)
        return load_file(file, {"UPSTREAM": upstream_url})


def _fields(lines: list[str]) -> Fields:
    pairs = [line.partition(":") for line in lines]
    return [(name.lower(), value.strip(" \t")) for name, _, value in pairs]


def _decoded(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields]
