"""Connections to the services behind the gateway: one request at a time on each, and used again if that is safe.

A connection is used again only if its last response came to its end by its own account, nothing came
after that, and the whole request had been sent. What an upstream sends beyond a response would be taken
for the response to somebody else's next request.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import structlog

from ostiary_gateway import http1
from ostiary_gateway.http1 import BadMessage, Body, Fields, Response, Sized
from ostiary_gateway.outbox import Outbox, Sender

P = TypeVar("P", bound=asyncio.BaseProtocol)

_log = structlog.stdlib.get_logger("upstream")

#: Exchanges that wait for a connection to one address.
MAX_WAITING = 1024

#: Seconds for which a connection is kept without a request, less than servers do; and altogether, so that a name that
#: has come to mean another address is noticed.
IDLE_SECONDS = 4.0
MAX_AGE_SECONDS = 300.0

#: Bytes that wait to be written before the other side is not read any more.
HIGH_WATER = 256 * 1024

#: Bytes of an answer to a question of the gateway's own.
MAX_CONTENT_BYTES = 8 * 1024 * 1024

_QUESTION = b"GET %b HTTP/1.1\r\nhost: %b\r\nuser-agent: ostiary-gateway\r\nconnection: close\r\n\r\n"

_FIRST_HEAD = b"HTTP/1.1 204 No Content\r\n\r\n"
_FIRST = _FIRST_HEAD, "GET", http1.parse_response(_FIRST_HEAD, "GET"), 0


class Failure(Enum):
    """Why there is no response, or only a part of one."""

    UNREACHABLE = "cannot be connected to"
    OVERLOADED = "has too many requests waiting for it"
    #: Of a connection that had been used before: the upstream may have closed it before it saw the request.
    STALE = "closed the connection that was used again"
    BROKEN = "broke off"
    INVALID = "answered with something that is no HTTP response"
    SLOW = "did not answer in time"


class Receiver(Protocol):
    """Who has asked for a connection, and what comes of it."""

    def on_connection(self, connection: "UpstreamConnection") -> None:
        """Take a connection, and send the request on it."""

    def on_head(self, response: Response) -> None:
        """Take the head of a response."""

    def on_content(self, content: bytes) -> None:
        """Take a part of the response's body."""

    def on_pause(self) -> None:
        """Go on, as nothing more has come for now."""

    def on_end(self, trailers: Fields) -> None:
        """Take the end of the response."""

    def on_tunnel(self, data: bytes) -> None:
        """Take bytes after the protocol was changed."""

    def on_failure(self, failure: Failure) -> None:
        """Hear that nothing more comes."""

    def on_writable(self, writable: bool) -> None:
        """Hear whether the upstream takes more of the request."""


class UpstreamConnection(Sender):
    """A connection to an upstream."""

    def __init__(self, pool: "Pool") -> None:
        """Make a connection of `pool`."""
        super().__init__(pool.outbox)
        self._pool = pool
        self._receiver: Receiver | None = None
        self._method = ""
        self._buffer = b""
        self._body: Body | None = None
        self._keeps_alive = False
        self._tunnels = False
        #: Whether the other side has said that nothing more comes: with TLS, it is not enough that the network does.
        self._has_ended = False
        #: The last head, to a request with which method, and what it says.
        self._last = _FIRST
        #: Whether the whole request was sent.
        self.is_request_sent = False
        self.is_used_again = False
        self.opened_at = self.idle_since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = transport  # type: ignore[assignment]  # of a stream
        self._transport.set_write_buffer_limits(HIGH_WATER)  # type: ignore[union-attr]  # set above

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def use(self, receiver: Receiver, method: str, *, is_sent: bool) -> None:
        """Send a request with this method next; `is_sent` says that it has no body. What comes goes to `receiver`."""
        self._receiver = receiver
        self._method = method
        self._body = None
        self.is_request_sent = is_sent

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection, whatever is going on."""
        self._receiver = None
        self._abort()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a response."""
        receiver = self._receiver
        if receiver is None:
            # Nobody has asked.
            self.abort()
            return
        if self._tunnels:
            receiver.on_tunnel(data)
            return
        try:
            if self._body is None:
                data = self._read_heads(receiver, data)
            body = self._body
            if body is not None and self._receiver is receiver:
                content, surplus = body.take(data)
                if content:
                    receiver.on_content(content)
                if body.done and self._receiver is receiver:
                    self._finish(receiver, body, is_clean=not surplus)
                    return
        except BadMessage as error:
            _log.warning("upstream answered with something invalid", upstream=self._pool.name, fault=str(error))
            self.fail(Failure.INVALID)
            return
        if self._receiver is receiver:
            receiver.on_pause()

    def _read_heads(self, receiver: Receiver, data: bytes) -> bytes:
        """Read heads up to the final one, if that is there, and return what comes after it. Raises BadMessage."""
        searched = len(self._buffer)
        if searched:
            data, self._buffer = self._buffer + data, b""
        while (end := self._head_end(data, searched)) >= 0:
            response = self._parse(data[:end])
            data, searched = data[end:], 0
            if response.status == 101:  # noqa: PLR2004 - Switching Protocols
                self._tunnels = True
                receiver.on_head(response)
                if self._receiver is receiver and data:
                    receiver.on_tunnel(data)
                return b""
            receiver.on_head(response)
            if self._receiver is not receiver:
                return b""
            if response.is_final:
                self._pool.note(True)
                self._body, self._keeps_alive = response.body, response.keeps_alive
                return data
        self._buffer = data
        return b""

    def _head_end(self, data: bytes, searched: int) -> int:
        """Return where a head ends, -1 if it does not yet. Raises BadMessage."""
        known_head = self._last[0]
        return len(known_head) if data.startswith(known_head) else http1.head_end(data, searched)

    def _parse(self, head: bytes) -> Response:
        """Read a head, or remember it: within a second, the same answer has the same. Raises BadMessage."""
        known_head, known_method, known, length = self._last
        if head == known_head and self._method == known_method:
            # The one that it belonged to is over.
            known.body = Sized(length)
            return known
        response = http1.parse_response(head, self._method)
        if isinstance(response.body, Sized):
            self._last = head, self._method, response, response.body.left
        return response

    def _finish(self, receiver: Receiver, body: Body, *, is_clean: bool) -> None:
        self._receiver = None
        if self._keeps_alive and is_clean and self.is_request_sent:
            self.is_used_again = True
            self.resume()
            self._pool.put_back(self)
        else:
            self._abort()
        receiver.on_end(body.trailers)

    def give_back(self) -> None:
        """Return the connection to its pool, unused."""
        self._pool.put_back(self)

    @property
    def host(self) -> bytes:
        """What the field `Host` says."""
        return self._pool.host

    def fail(self, failure: Failure) -> None:
        """Give up on the answer, and count that against the upstream."""
        self._pool.note(False)
        receiver, self._receiver = self._receiver, None
        self._abort()
        if receiver is not None:
            receiver.on_failure(failure)

    def eof_received(self) -> bool:
        """Close the connection too: nobody sends a request to who does not answer any more."""
        self._has_ended = True
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """See what that means for the response."""
        self._transport = None
        self._pool.forget(self)
        receiver, body = self._receiver, self._body
        if receiver is None:
            return
        self._receiver = None
        if self._tunnels:
            receiver.on_end([])
        elif body is not None:
            # RFC 9112 section 9.8: what ends with its connection is complete if that was closed by its owner.
            if _error is None and self._has_ended and body.end():
                receiver.on_end(body.trailers)
            else:
                receiver.on_failure(Failure.BROKEN)
        elif self.is_used_again and not self._buffer:
            receiver.on_failure(Failure.STALE)
        else:
            self._pool.note(False)
            receiver.on_failure(Failure.BROKEN)

    def pause_writing(self) -> None:
        """Hold the request's body up."""
        if self._receiver is not None:
            self._receiver.on_writable(False)

    def resume_writing(self) -> None:
        """Let the request's body come."""
        if self._receiver is not None:
            self._receiver.on_writable(True)


class Pool:
    """Connections to one address of an upstream."""

    def __init__(
        self, name: str, url: str, connections: int, tls: ssl.SSLContext, note: Callable[[bool], None]
    ) -> None:
        """Make an empty pool for the address in `url`, of so many connections at most.

        `note` is told of each request whether it was answered.
        """
        self.note = note
        self._max_connections = connections
        parts = urlsplit(url)
        self.name = name
        self.url = url
        self._is_retired = False
        #: Of this pool alone, so that what goes to one address goes there together.
        self.outbox = Outbox()
        #: For the field `Host`.
        self.host = parts.netloc.encode() or b"localhost"
        self._path = parts.path if parts.scheme == "unix" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" else None
        self._idle: deque[UpstreamConnection] = deque()
        self._open: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Receiver, float]] = deque()

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """How many connections are at work on one, or are being opened."""
        return len(self._open) - len(self._idle) + len(self._connecting)

    @property
    def waiting(self) -> int:
        """How many requests wait for a connection."""
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """How many requests are waiting for an answer, or for a connection."""
        return self.busy + self.waiting

    def lease(self, receiver: Receiver, connect_seconds: float, *, new: bool = False) -> None:
        """Give `receiver` a connection, now or later, or tell it why not. `new` makes it one never used before."""
        if not new:
            while self._idle:
                # The one that was used last: the others get to be closed for being idle.
                connection = self._idle.pop()
                if self._is_good(connection):
                    receiver.on_connection(connection)
                    return
                connection.abort()
        if len(self._open) + len(self._connecting) < self._max_connections:
            self._connect(receiver, connect_seconds)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((receiver, connect_seconds))
        else:
            receiver.on_failure(Failure.OVERLOADED)

    def put_back(self, connection: UpstreamConnection) -> None:
        """Take back a connection that can be used again."""
        connection.idle_since = time.monotonic()
        if self._waiting and self._is_good(connection):
            receiver, _ = self._waiting.popleft()
            receiver.on_connection(connection)
        elif self._is_retired:
            connection.abort()
        else:
            self._idle.append(connection)

    def leave(self, receiver: Receiver) -> None:
        """Forget somebody who does not wait any more."""
        for entry in [entry for entry in self._waiting if entry[0] is receiver]:
            self._waiting.remove(entry)

    def forget(self, connection: UpstreamConnection) -> None:
        """Forget a connection that is closed; there is room for another one."""
        self._open.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._make_room_known()

    def sweep(self, now: float) -> None:
        """Close what has been idle for long."""
        while self._idle and now - self._idle[0].idle_since > IDLE_SECONDS:
            self._idle.popleft().abort()

    def retire(self) -> None:
        """Close what is idle, and the rest when it has been answered."""
        self._is_retired = True
        while self._idle:
            self._idle.pop().abort()

    def close(self) -> None:
        """Close all connections."""
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._open):
            connection.abort()

    def _is_good(self, connection: UpstreamConnection) -> bool:
        now = time.monotonic()
        is_young = now - connection.opened_at < MAX_AGE_SECONDS and now - connection.idle_since < IDLE_SECONDS
        return is_young and connection.is_open

    def _connect(self, receiver: Receiver, seconds: float) -> None:
        task = asyncio.create_task(self._open_connection(receiver, seconds))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open_connection(self, receiver: Receiver, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                _, connection = await self._connected(lambda: UpstreamConnection(self))
        except (OSError, TimeoutError, UnicodeError) as error:
            # The last one is of a host that can be no name.
            _log.warning("upstream cannot be reached", upstream=self.name, error=type(error).__name__)
            self.note(False)
            receiver.on_failure(Failure.UNREACHABLE)
            self._make_room_known()
            return
        if connection.is_open:
            self._open.add(connection)
            receiver.on_connection(connection)
        else:
            receiver.on_failure(Failure.BROKEN)

    async def get(self, path: str, seconds: float) -> tuple[int, bytes]:
        """Ask something of the gateway's own; return status and content. Raises OSError, BadMessage or ValueError."""
        reader = asyncio.StreamReader()
        async with asyncio.timeout(seconds):
            transport, _ = await self._connected(lambda: asyncio.StreamReaderProtocol(reader))
            try:
                transport.write(_QUESTION % (path.encode(), self.host))
                response = http1.parse_response(await reader.readuntil(b"\r\n\r\n"), "GET")
                content = b""
                while not response.body.done and (data := await reader.read(MAX_CONTENT_BYTES)):
                    content += response.body.take(data)[0]
                    if len(content) > MAX_CONTENT_BYTES:
                        raise ValueError("it is too long")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                raise BadMessage("head") from error
            finally:
                transport.abort()
        if not response.body.end():
            raise BadMessage("not all of it came")
        return response.status, content

    async def _connected(self, protocol: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Open a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._path is not None:
            return await loop.create_unix_connection(protocol, self._path)
        name = self._host if self._tls is not None else None
        return await loop.create_connection(protocol, self._host, self._port, ssl=self._tls, server_hostname=name)

    def _make_room_known(self) -> None:
        if self._waiting and len(self._open) + len(self._connecting) <= self._max_connections:
            receiver, seconds = self._waiting.popleft()
            self._connect(receiver, seconds)
