"""An upstream that records requests and responds as the test tells it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.fields import Fields, parse_lines


@dataclass
class ReceivedRequest:
    """A request, as the upstream received it."""

    head: bytes
    connection: "UpstreamSocket"
    method: str = ""
    target: str = ""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    is_complete: bool = False

    def __post_init__(self) -> None:
        line, *lines = self.head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.method, self.target, version = line.split(" ")
        assert version == "HTTP/1.1"
        self.fields = parse_lines(lines)

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.fields if each == name]

    async def read_body(self) -> bytes:
        """Read the body, unless that was done before."""
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
        self.trailers = parse_lines(lines)


@dataclass
class UpstreamSocket:
    """The upstream's side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_closed: bool = False

    async def wait_closed(self) -> None:
        """Wait for the gateway to close the connection, and drop what it sends before."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.is_closed = True


#: Called with a request and the writer of its connection.
Responder = Callable[[ReceivedRequest, asyncio.StreamWriter], Awaitable[None]]


def respond_and_stall(data: bytes = b"") -> Responder:
    """Send these bytes, then nothing until the gateway closes the connection."""

    async def respond(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await request.connection.wait_closed()

    return respond


def respond_and_close(data: bytes = b"") -> Responder:
    """Send these bytes, then close the connection."""

    async def respond(_: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return respond


class PausedResponse:
    """A responder that sends `first` at once, and `then` when resumed."""

    def __init__(self, *, first: bytes = b"", then: bytes) -> None:
        self._first = first
        self._then = then
        self._resumed = asyncio.Event()

    async def __call__(self, _: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(self._first)
        await self._resumed.wait()
        writer.write(self._then)

    def resume(self) -> None:
        self._resumed.set()


class RecordingUpstream:
    """Records requests and echoes them, or sends `response`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix:{path}"
        self.requests: list[ReceivedRequest] = []
        self.connections: list[UpstreamSocket] = []
        self.response: bytes | Responder | None = None
        #: Respond to the head, before the body is read.
        self.responds_before_body = False
        #: Mistakes in a test, raised in `__aexit__`.
        self.faults: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def last(self) -> ReceivedRequest:
        return self.requests[-1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._on_connection, self.path, limit=600_000)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.faults and error is None:
            raise self.faults[0]

    def stop_listening(self) -> None:
        """Refuse connections from now on, and close those that are open."""
        assert self._server is not None
        self._server.close()
        self.path.unlink(missing_ok=True)
        for connection in self.connections:
            connection.writer.close()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = UpstreamSocket(reader, writer)
        self.connections.append(connection)
        task = asyncio.create_task(self._serve(connection))
        self._tasks.add(task)

    async def _serve(self, connection: UpstreamSocket) -> None:
        try:
            while True:
                request = ReceivedRequest(await connection.reader.readuntil(b"\r\n\r\n"), connection)
                self.requests.append(request)
                if not self.responds_before_body:
                    await request.read_body()
                await self._respond(request)
                if connection.writer.is_closing():
                    break
                await connection.writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001 - raised in __aexit__
            self.faults.append(error)
        finally:
            connection.is_closed = True
            connection.writer.transport.abort()

    async def _respond(self, request: ReceivedRequest) -> None:
        writer = request.connection.writer
        if isinstance(self.response, bytes):
            writer.write(self.response)
        elif self.response is not None:
            await self.response(request, writer)
        else:
            content = json.dumps({"target": request.target, "body": request.body.decode("latin-1")}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Up: 1\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(content) + (b"" if request.method == "HEAD" else content))
