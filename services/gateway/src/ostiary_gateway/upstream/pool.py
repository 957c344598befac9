"""Connections to the services behind the gateway: one request at a time on each, and used again if that is safe.

A connection is used again only if its last response came to its end by its own account, nothing came
after that, and the whole request had been sent. What an upstream sends beyond a response would be taken
for the response to somebody else's next request.
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from ipaddress import ip_address
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import structlog

from ostiary_gateway.http1 import parser
from ostiary_gateway.http1.body import Body, ContentLengthBody
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.http1.write_buffer import FlushQueue, WriteBufferedProtocol

P = TypeVar("P", bound=asyncio.BaseProtocol)

SWITCHING_PROTOCOLS = 101

#: Methods with which a body means nothing (RFC 9110 section 9.3).
_METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

_log = structlog.stdlib.get_logger("upstream")

#: Exchanges that wait for a connection to one address; of callers who have more than their share, half as many.
MAX_WAITING = 1024

#: A caller with this share of the connections to an address, or more, gets no further one when not more than the other
#: share is left: those are for others.
GREEDY_SHARE = 0.5
RESERVED_SHARE = 0.25

#: Connections to an address from which on some are kept back for others.
MIN_SHARED = 16

#: Interim responses before a final one. One or two have a use.
MAX_INTERIM = 16

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
_FIRST = _FIRST_HEAD, "GET", parser.parse_response(_FIRST_HEAD, "GET"), 0


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

    @property
    def client(self) -> str:
        """On whose behalf: the name of a caller."""

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


class UpstreamConnection(WriteBufferedProtocol):
    """A connection to an upstream."""

    def __init__(self, pool: "Pool") -> None:
        """Make a connection of `pool`."""
        super().__init__(pool.flush_queue)
        self._pool = pool
        self._receiver: Receiver | None = None
        self._method = ""
        self._buffer = b""
        self._body: Body | None = None
        self._keeps_alive = False
        self._tunnels = False
        self._interim = 0
        #: Whether the receiver wants nothing for now; and whether something in the buffer waits for its turn.
        self._is_paused = self._goes_on_later = False
        #: Whether the request has no body.
        self._is_plain = True
        #: Whether more of a request can be taken.
        self.is_writable = True
        #: Whether the other side has said that nothing more comes: with TLS, it is not enough that the network does.
        self._has_ended = False
        #: The last head, to a request with which method, and what it says.
        self._last = _FIRST
        #: Whether the whole request was sent.
        self.is_request_sent = False
        self.is_used_again = False
        #: On whose behalf it is used.
        self.client = ""
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
        self._interim = 0
        self._is_plain = self.is_request_sent = is_sent

    def pause(self) -> None:
        """Read no more for now."""
        self._is_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False
        if self._goes_on_later:
            asyncio.get_running_loop().call_soon(self._go_on)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection, whatever is going on."""
        self._receiver = None
        self._abort()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a response."""
        if self._goes_on_later:
            self._buffer += data
            return
        receiver = self._receiver
        if receiver is None:
            # Nobody has asked.
            self._abort()
            return
        if self._tunnels:
            receiver.on_tunnel(data)
            return
        try:
            if self._body is None:
                data = self._read_heads(receiver, data)
            if self._body is not None and self._receiver is receiver:
                self._take_content(receiver, self._body, data)
        except BadMessage as error:
            _log.warning("upstream answered with something invalid", upstream=self._pool.name, fault=str(error))
            self.fail(Failure.INVALID)
            return
        if self._receiver is receiver:
            receiver.on_pause()

    def _take_content(self, receiver: Receiver, body: Body, data: bytes) -> None:
        content, rest = body.take(data)
        if content:
            receiver.on_content(content)
        if self._receiver is not receiver:
            return
        if body.done:
            self._finish(receiver, body, is_clean=not rest)
        elif rest:
            self._go_on_later(rest)

    def _read_heads(self, receiver: Receiver, data: bytes) -> bytes:
        """Read heads up to the final one, if that is there, and return what comes after it. Raises BadMessage."""
        searched = len(self._buffer)
        if searched:
            data, self._buffer = self._buffer + data, b""
        while (end := self._head_end(data, searched)) >= 0:
            response = self._parse(data[:end])
            data, searched = data[end:], 0
            if response.status == SWITCHING_PROTOCOLS:
                self._pool.succeeded()
                self._tunnels = True
                receiver.on_head(response)
                if self._receiver is receiver and data:
                    receiver.on_tunnel(data)
                return b""
            if response.is_final:
                # Before anything is made of it: whatever it says, somebody is there.
                self._pool.succeeded()
            else:
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    raise BadMessage("too many interim responses")
            receiver.on_head(response)
            if self._receiver is not receiver:
                return b""
            if response.is_final:
                self._body, self._keeps_alive = response.body, response.keep_alive
                return data
        self._buffer = data
        return b""

    def _go_on_later(self, rest: bytes) -> None:
        """Let others have their turn before the rest is read."""
        self._goes_on_later, self._buffer = True, rest
        if self._transport is not None:
            self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._goes_on_later or self._is_paused:
            return
        self._goes_on_later = False
        data, self._buffer = self._buffer, b""
        self.data_received(data)
        if not self._goes_on_later and not self._is_paused:
            self.resume()

    def _head_end(self, data: bytes, searched: int) -> int:
        """Return where a head ends, -1 if it does not yet. Raises BadMessage."""
        known_head = self._last[0]
        return len(known_head) if data.startswith(known_head) else parser.head_end(data, searched)

    def _parse(self, head: bytes) -> Response:
        """Read a head, or remember it: within a second, the same answer has the same. Raises BadMessage."""
        known_head, known_method, known, length = self._last
        if head == known_head and self._method == known_method:
            # The one that it belonged to is over.
            known.body = ContentLengthBody(length)
            return known
        response = parser.parse_response(head, self._method)
        if isinstance(response.body, ContentLengthBody):
            self._last = head, self._method, response, response.body.left
        return response

    def _finish(self, receiver: Receiver, body: Body, *, is_clean: bool) -> None:
        self._receiver = None
        if self._keeps_alive and is_clean and self.is_request_sent and (self._is_plain or self._may_follow_a_body()):
            self.is_used_again = True
            if self._is_paused:
                self.resume()
            self._pool.put_back(self)
        else:
            self._abort()
        receiver.on_end(body.trailers)

    def _may_follow_a_body(self) -> bool:
        """Return whether a request can come after one with a body: if that was taken, and was no surprise.

        Servers that expect no body may take it for the next request.
        """
        return not self.unsent and self._method not in _METHODS_WITHOUT_BODY

    @property
    def host(self) -> bytes:
        """What the field `Host` says."""
        return self._pool.host

    def fail(self, failure: Failure) -> None:
        """Give up on the answer. That it is slow counts against the upstream; other faults may be the caller's."""
        if failure is Failure.SLOW and self.is_request_sent:
            self._pool.failed(self.client)
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
        client = self.client
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
            if self.is_request_sent:
                # Who does not send all of it may be cut off for that.
                self._pool.failed(client)
            receiver.on_failure(Failure.BROKEN)

    def pause_writing(self) -> None:
        """Hold the request's body up."""
        self.is_writable = False
        if self._receiver is not None:
            self._receiver.on_writable(False)

    def resume_writing(self) -> None:
        """Let the request's body come."""
        self.is_writable = True
        if self._receiver is not None:
            self._receiver.on_writable(True)


class Outcomes(Protocol):
    """Who hears of each request whether the upstream answered."""

    def succeeded(self) -> None:
        """Hear that it did."""

    def failed(self, client: str | None) -> None:
        """Hear that it did not, to a request of this caller; of None if it was no caller's doing."""


class _Attempt:
    """A connection that is being opened, and for whom; if that is nobody any more, it is for whoever comes next."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver: Receiver | None = receiver
        self.client = receiver.client


class Pool:
    """Connections to one address of an upstream."""

    def __init__(self, name: str, url: str, connections: int, tls: ssl.SSLContext | None, outcomes: Outcomes) -> None:
        """Make an empty pool for the address in `url`, of so many connections at most."""
        self._outcomes = outcomes
        self._max_connections = connections
        #: From how many connections on a caller has more than its share, and how many are kept back for others.
        self._share, self._reserved = int(connections * GREEDY_SHARE), int(connections * RESERVED_SHARE)
        if connections < MIN_SHARED:
            self._share, self._reserved = connections + 1, 0
        parts = urlsplit(url)
        self.name = name
        self.url = url
        self._is_retired = False
        #: Of this pool alone, so that what goes to one address goes there together.
        self.flush_queue = FlushQueue()
        #: For the field `Host`.
        self.host = parts.netloc.encode() or b"localhost"
        self._path = parts.path if parts.scheme == "unix" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" else None
        #: The address that could be connected to last.
        self._good = ""
        self._idle: deque[UpstreamConnection] = deque()
        self._open: set[UpstreamConnection] = set()
        self._attempts: set[_Attempt] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Receiver, float]] = deque()
        self._waiting_for_more: deque[tuple[Receiver, float]] = deque()
        #: How many connections each caller has.
        self._held: dict[str, int] = {}

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """How many connections are at work on one, or are being opened."""
        return len(self._open) - len(self._idle) + len(self._attempts)

    @property
    def waiting(self) -> int:
        """How many requests wait for a connection."""
        return len(self._waiting) + len(self._waiting_for_more)

    @property
    def outstanding(self) -> int:
        """How many requests are waiting for an answer, or for a connection."""
        return self.busy + self.waiting

    def lease(self, receiver: Receiver, connect_seconds: float, *, new: bool = False) -> None:
        """Give `receiver` a connection, now or later, or tell it why not. `new` makes it one never used before."""
        if not self._has_one_for(receiver.client):
            self._wait(receiver, connect_seconds)
            return
        connection = None if new else self._take_idle()
        if connection is not None:
            self._give(connection, receiver)
        else:
            self._connect(receiver, connect_seconds)

    def put_back(self, connection: UpstreamConnection) -> None:
        """Take back a connection that can be used again."""
        self._release(connection)
        now = connection.idle_since = time.monotonic()
        if self._is_retired or now - connection.opened_at >= MAX_AGE_SECONDS:
            self._discard(connection)
        else:
            self._idle.append(connection)
        self._serve_waiting()

    def leave(self, receiver: Receiver) -> None:
        """Forget somebody who does not want a connection any more."""
        for queue in (self._waiting, self._waiting_for_more):
            for entry in [entry for entry in queue if entry[0] is receiver]:
                queue.remove(entry)
        for attempt in self._attempts:
            if attempt.receiver is receiver:
                attempt.receiver = None

    def forget(self, connection: UpstreamConnection) -> None:
        """Forget a connection that is closed; there is room for another one."""
        self._open.discard(connection)
        self._release(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._serve_waiting()

    def succeeded(self) -> None:
        """Note an answer."""
        self._outcomes.succeeded()

    def failed(self, client: str) -> None:
        """Note that a caller got none."""
        self._outcomes.failed(client)

    def sweep(self, now: float) -> None:
        """Close what has been idle for long."""
        while self._idle and now - self._idle[0].idle_since > IDLE_SECONDS:
            self._discard(self._idle.popleft())

    def retire(self) -> None:
        """Close what is idle, and the rest when it has been answered."""
        self._is_retired = True
        while self._idle:
            self._discard(self._idle.pop())

    def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self._open):
            connection.abort()

    def _has_one_for(self, client: str) -> bool:
        """Return whether a caller gets a connection now: the last ones are for those who have few."""
        free = self._max_connections - self.busy
        return free > self._reserved or (free > 0 and self._held.get(client, 0) < self._share)

    def _wait(self, receiver: Receiver, connect_seconds: float) -> None:
        is_greedy = self._held.get(receiver.client, 0) >= self._share
        queue, most = (self._waiting_for_more, MAX_WAITING // 2) if is_greedy else (self._waiting, MAX_WAITING)
        if len(queue) < most:
            queue.append((receiver, connect_seconds))
        else:
            receiver.on_failure(Failure.OVERLOADED)

    def _serve_waiting(self) -> None:
        while (entry := self._next_waiting()) is not None:
            self.lease(*entry)

    def _next_waiting(self) -> tuple[Receiver, float] | None:
        """Return who gets the next connection, if there is one for anybody."""
        while self._waiting and self.busy < self._max_connections:
            entry = self._waiting.popleft()
            if self._has_one_for(entry[0].client):
                return entry
            # It has got its share meanwhile.
            self._waiting_for_more.append(entry)
        if self._waiting_for_more and self._has_one_for(self._waiting_for_more[0][0].client):
            return self._waiting_for_more.popleft()
        return None

    def _take_idle(self) -> UpstreamConnection | None:
        while self._idle:
            # The one that was used last: the others get to be closed for being idle.
            connection = self._idle.pop()
            if self._is_good(connection):
                return connection
            self._discard(connection)
        return None

    def _give(self, connection: UpstreamConnection, receiver: Receiver) -> None:
        connection.client = receiver.client
        self._hold(receiver.client)
        receiver.on_connection(connection)

    def _release(self, connection: "UpstreamConnection | _Attempt") -> None:
        client, connection.client = connection.client, ""
        if client:
            left = self._held[client] - 1
            if left:
                self._held[client] = left
            else:
                del self._held[client]

    def _hold(self, client: str) -> None:
        self._held[client] = self._held.get(client, 0) + 1

    def _discard(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _is_good(self, connection: UpstreamConnection) -> bool:
        now = time.monotonic()
        is_young = now - connection.opened_at < MAX_AGE_SECONDS and now - connection.idle_since < IDLE_SECONDS
        return is_young and connection.is_open

    def _connect(self, receiver: Receiver, seconds: float) -> None:
        if len(self._open) + len(self._attempts) >= self._max_connections:
            self._discard(self._idle.popleft())
        attempt = _Attempt(receiver)
        self._hold(attempt.client)
        self._attempts.add(attempt)
        task = asyncio.create_task(self._open_connection(attempt, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_connection(self, attempt: _Attempt, seconds: float) -> None:
        try:
            _, connection = await self._connected(lambda: UpstreamConnection(self), seconds)
        except (OSError, TimeoutError, UnicodeError) as error:
            # The last one is of a host that can be no name.
            _log.warning("upstream cannot be reached", upstream=self.name, error=type(error).__name__)
            self._end(attempt)
            self._outcomes.failed(None)
            if attempt.receiver is not None:
                attempt.receiver.on_failure(Failure.UNREACHABLE)
            self._serve_waiting()
            return
        self._end(attempt)
        receiver = attempt.receiver
        if connection.is_open:
            self._open.add(connection)
            if receiver is not None:
                self._give(connection, receiver)
            else:
                self.put_back(connection)
        elif receiver is not None:
            receiver.on_failure(Failure.BROKEN)
        self._serve_waiting()

    def _end(self, attempt: _Attempt) -> None:
        self._attempts.discard(attempt)
        self._release(attempt)

    async def can_be_connected_to(self, seconds: float) -> bool:
        """Return whether a connection can be opened now."""
        try:
            transport, _ = await self._connected(asyncio.Protocol, seconds)
        except (OSError, TimeoutError, UnicodeError):
            return False
        transport.abort()
        return True

    async def get(self, path: str, seconds: float) -> tuple[int, bytes]:
        """Ask something of the gateway's own; return status and content. Raises OSError, BadMessage or ValueError."""
        reader = asyncio.StreamReader()
        async with asyncio.timeout(seconds):
            transport, _ = await self._connected(lambda: asyncio.StreamReaderProtocol(reader), seconds)
            try:
                transport.write(_QUESTION % (path.encode(), self.host))
                response = parser.parse_response(await reader.readuntil(b"\r\n\r\n"), "GET")
                content, rest = b"", b""
                while not response.body.done and (data := rest or await reader.read(MAX_CONTENT_BYTES)):
                    piece, rest = response.body.take(data)
                    content += piece
                    if len(content) > MAX_CONTENT_BYTES:
                        raise ValueError("it is too long")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                raise BadMessage("head") from error
            finally:
                transport.abort()
        if not response.body.end():
            raise BadMessage("not all of it came")
        return response.status, content

    async def _connected(self, protocol: Callable[[], P], seconds: float) -> tuple[asyncio.Transport, P]:
        """Open a connection, within so many seconds. Raises OSError, TimeoutError or UnicodeError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            if self._path is not None:
                return await loop.create_unix_connection(protocol, self._path)
            name = self._host if self._tls is not None else None
            *others, last = await self._addresses()
            for address in others:
                # Each has its part of the time; one that hangs must not keep others from being asked.
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(seconds / (len(others) + 1)):
                        found = await loop.create_connection(
                            protocol, address, self._port, ssl=self._tls, server_hostname=name
                        )
                        self._good = address
                        return found
            found = await loop.create_connection(protocol, last, self._port, ssl=self._tls, server_hostname=name)
            self._good = last
            return found

    async def _addresses(self) -> list[str]:
        """Return what the host's name means now; first what was good before. Raises OSError or UnicodeError."""
        if _is_address(self._host):
            return [self._host]
        found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        if not addresses:
            raise OSError("this name has no address")
        return sorted(addresses, key=lambda address: address != self._good)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
