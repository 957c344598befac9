"""A client's connection: requests are read and answered one after the other, by an upstream or the gateway itself."""

import asyncio
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Any

import structlog

from ostiary.errors import OstiaryError
from ostiary.http import PROBLEM_JSON, Problem, problem_for
from ostiary_chassis.problems import INTERNAL_ERROR, ProblemError
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1 import parser, websocket
from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownCoding, UnknownVersion
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.serializer import head
from ostiary_gateway.http1.write_buffer import WriteBufferedProtocol
from ostiary_gateway.observability.access_log import AccessLog
from ostiary_gateway.proxy.asgi_bridge import AsgiBridge
from ostiary_gateway.proxy.connection_manager import ConnectionManager
from ostiary_gateway.proxy.exchange import Exchange
from ostiary_gateway.runtime import Runtime, Snapshot

_log = structlog.stdlib.get_logger("proxy")

#: Seconds for a head to arrive, from the connection or from its first byte; for a client to send the next piece of its
#: body, or to take the next piece of an answer; and for the next request on a connection: longer than clients' and
#: proxies' own, so that it is they who close and no request meets a closing connection.
HEAD_SECONDS = 20.0
CLIENT_SECONDS = 30.0

#: Bytes a second that a body comes with at least, all in all, once those seconds are over, and that an answer is taken
#: with: both hold up a connection to the service, and of those there are not many.
BODY_BYTES_PER_SECOND = 1024

#: Seconds for a first request to arrive while the gateway ends.
ENDING_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 75.0

#: Seconds and bytes for which a connection is still read after its last answer (RFC 9112 section 9.6): closed at once,
#: it would be reset if there were anything to read, and the answer lost.
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 * 1024 * 1024

#: Requests that came together and are begun in one turn of the event loop; others have theirs in between.
MAX_IN_A_TURN = 16

#: Bytes that wait to be written before the other side is not read any more; and of further requests that wait.
HIGH_WATER = 256 * 1024
MAX_AHEAD_BYTES = 64 * 1024

#: Bytes that the system keeps for a client beyond those that are on their way; it would keep four times as many.
MAX_NOT_SENT = 1024 * 1024

#: Bytes of an answer of the gateway's own that are written at once.
PIECE_BYTES = 64 * 1024

#: Bytes of a head that is kept while its connection waits for the next one: there may be very many connections.
MAX_KEPT_HEAD = 4096

_INVALID = Problem(400, "invalid_request", "The request is not valid HTTP/1.1.")
_TOO_LARGE = Problem(431, "head_too_large", f"Request line and header fields may have {parser.MAX_HEAD_BYTES} bytes.")
_UNKNOWN_VERSION = Problem(505, "unknown_version", "Send HTTP/1.1.")
_UNKNOWN_CODING = Problem(501, "unknown_coding", "Send the body with a Content-Length, or chunked.")
_TOO_MANY_CONNECTIONS = Problem(
    503, "too_many_connections", "This address has too many connections open; close some.", {"Retry-After": "1"}
)
_HEAD_TIMEOUT = Problem(408, "head_timeout", "The request did not arrive in time.")
_BODY_TIMEOUT = Problem(408, "body_timeout", "The request body did not arrive in time.")

_NO_HEAD = b"GET / HTTP/1.1\r\n\r\n"
_NO_CONTEXT = RequestContext(parser.parse_request(_NO_HEAD), "", b"", b"")

_NEVER = float("inf")

#: Stands for what could not be read, in the log.
_UNREADABLE = parser.parse_request(b"- - HTTP/1.1\r\nConnection: close\r\n\r\n")

_NO_CONTENT = 204

#: What is counted for a client that did not wait for its answer; nobody gets to see it.
_CLIENT_LEFT = 499
_CUT_OFF = 503


class ClientConnection(WriteBufferedProtocol):
    """A connection with a client."""

    def __init__(
        self,
        manager: ConnectionManager,
        runtime: Runtime,
        exchange_of: Callable[["ClientConnection", RequestContext, Snapshot], Exchange],
        own: AsgiBridge,
        log: AccessLog,
    ) -> None:
        """Make a connection."""
        super().__init__(manager.flush_queue)
        self._manager = manager
        self._runtime = runtime
        self._exchange_of = exchange_of
        self._own = own
        self._log = log
        self.peer = "unknown"
        self._buffer = b""
        self._searched = 0
        #: The last head without a body, and its context.
        self._last_head, self._last = _NO_HEAD, _NO_CONTEXT
        self._arrival: RequestContext | None = None
        self._exchange: Exchange | None = None
        self._started_at = 0.0
        #: Whether the request's body, or what is beyond it, has to wait.
        self._is_held = False
        #: Since when the body is read, and how much of it has come since.
        self._body_since, self._body_bytes = 0.0, 0
        self._lingers = False
        #: Bytes that were not taken by the client when it was looked at last, and when many more must be at the end.
        self._untaken, self._taken_by = 0, 0.0
        #: An answer of the gateway's own, how much of it was written, and whether the connection is kept after it.
        self._content, self._written, self._is_kept = b"", 0, False
        self._is_unread = False
        self._answer: asyncio.Task[None] | None = None
        #: Seconds on the monotonic clock.
        self.deadline = _NEVER
        self.is_http11 = True
        self.is_writable = True

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the first request."""
        self._transport = transport  # type: ignore[assignment]  # of a stream
        transport.set_write_buffer_limits(HIGH_WATER)  # type: ignore[attr-defined]  # the same
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unknown"
        # What nobody takes is not to fill the system's buffers either.
        connected = self._socket()
        if connected is not None and hasattr(socket, "TCP_NOTSENT_LOWAT") and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_NOT_SENT)
        self._own.server_state.connections.add(self)
        self.deadline = time.monotonic() + (ENDING_SECONDS if self._manager.is_ending else HEAD_SECONDS)
        if not self._manager.add(self):
            self.refuse(_TOO_MANY_CONNECTIONS)

    def connection_lost(self, _error: Exception | None) -> None:
        """Give up what is going on."""
        self._transport = None
        self._manager.remove(self)
        self._own.server_state.connections.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_lost()
            if exchange.is_tunnel:
                self._note(exchange.status, "allowed", exchange.upstream_seconds)
            else:
                self._note(_CLIENT_LEFT, "client_left", exchange.upstream_seconds)
        if self._answer is not None:
            self._answer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        if self._lingers:
            self._searched += len(data)
            if self._searched > LINGER_BYTES:
                self._abort()
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        self._take(data)

    def eof_received(self) -> bool:
        """Close: a client that half-closes its connection has left, as far as anybody can tell."""
        return False

    def pause_writing(self) -> None:
        """Hold the response up."""
        self.is_writable = False
        self._untaken = self._not_taken_yet()
        self.expect(CLIENT_SECONDS)
        if self._exchange is not None:
            self._exchange.on_client_writable(False)

    def resume_writing(self) -> None:
        """Let the response come."""
        self.is_writable = True
        if self._exchange is not None:
            self._exchange.on_client_writable(True)
        elif self._content:
            self._go_on_answering()
        elif self._arrival is None and not self._lingers:
            self._await_next()

    # From uvicorn.

    def shutdown(self) -> None:
        """Close when the request that is being answered is done; who talks WebSocket is told that it ends."""
        if self._arrival is None:
            self._close()
        elif self._exchange is not None and self._exchange.is_tunnel:
            self._exchange.end_tunnel(websocket.GOING_AWAY, "going away")

    # From the manager.

    def on_deadline(self) -> None:
        """Do something about what did not happen."""
        self.deadline = _NEVER
        exchange = self._exchange
        if self._takes_what_it_gets():
            return
        if self._lingers:
            self._abort()
        elif not self.is_writable:
            # The client does not take its answer.
            self._abort()
        elif exchange is not None and not exchange.is_sent and exchange.takes_body and not self._is_held:
            exchange.give_up(_BODY_TIMEOUT)
        elif exchange is not None:
            exchange.on_timeout()
        elif self._buffer:
            self.refuse(_HEAD_TIMEOUT)
        else:
            self._close()

    def _takes_what_it_gets(self) -> bool:
        """Return whether a client that is behind comes along, and give it more time if it does."""
        if self.is_writable and not self._lingers:
            return False
        left, now = self._not_taken_yet(), time.monotonic()
        if self._lingers and left and now < self._taken_by:
            # It has more time to take all, but not to close when it has.
            self.expect(min(LINGER_SECONDS, self._taken_by - now))
            return True
        untaken, self._untaken = self._untaken, left
        if self._lingers and untaken and not left:
            # All is taken: only now the client has its time to close.
            self.expect(LINGER_SECONDS)
        elif not untaken or untaken - left < BODY_BYTES_PER_SECOND * CLIENT_SECONDS:
            return False
        else:
            self._taken_by = now + CLIENT_SECONDS
            self.expect(LINGER_SECONDS if self._lingers else CLIENT_SECONDS)
        return self.deadline > now

    def _not_taken_yet(self) -> int:
        """Return how many bytes the client has not taken, nor its system for it."""
        connected = self._socket()
        if connected is None:
            return 0
        (in_the_system,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))
        return self.unsent + int(in_the_system)

    def _socket(self) -> Any:
        """Return the connection's socket, as far as event loops show it; None if it is closed."""
        connected = self._transport.get_extra_info("socket") if self._transport is not None else None
        return connected if connected is not None and connected.fileno() >= 0 else None

    def check_peer_closed(self) -> None:
        """Give up if the client has left. What is not read is not told."""
        connected = self._socket()
        if connected is None:
            return
        poll = select.poll()
        poll.register(connected.fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._abort()

    def cut_off(self) -> None:
        """End the connection, whatever is going on."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_lost()
            self._note(exchange.status or _CUT_OFF, "cut_off", exchange.upstream_seconds)
            self._arrival = None
        self._abort()

    # From the exchange.

    @property
    def is_ending(self) -> bool:
        """Whether no more requests are taken."""
        return self._manager.is_ending

    @property
    def date(self) -> bytes:
        """The present, as fields have it."""
        return self._manager.date

    def expect(self, seconds: float) -> None:
        """Wait for what comes next so long, and no longer than the exchange may take."""
        until = time.monotonic() + seconds
        exchange = self._exchange
        self.deadline = until if exchange is None or until < exchange.ends_at else exchange.ends_at

    def read_more(self, more: bool) -> None:
        """Read the request's body, or hold it up."""
        self._is_held = not more
        if not more:
            self._stop_reading()
            return
        self._body_since, self._body_bytes = time.monotonic(), 0
        if self._exchange is not None and not self._exchange.is_sent:
            self.expect(CLIENT_SECONDS)
        self._read_again()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self._take(data)

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""
        exchange, self._exchange = self._exchange, None
        context = self._arrival
        if context is None:
            request_id = self._manager.request_ids.id_for(_UNREADABLE)
            context = self._arrival = RequestContext(_UNREADABLE, self.peer, b"http", request_id)
            self._started_at = time.monotonic()
        fields = [(b"content-type", PROBLEM_JSON.encode())]
        fields += [
            (name.lower().encode(), value.encode("latin-1", "replace")) for name, value in problem.headers.items()
        ]
        fields += [*context.cors, (b"x-request-id", context.request_id)]
        self._note(problem.status, problem.code, exchange.upstream_seconds if exchange is not None else 0.0)
        self._respond(problem.status, fields, problem.to_json())

    def break_off(self) -> None:
        """Close the connection within a response."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._note(exchange.status, "broken_off", exchange.upstream_seconds)
        connected = self._socket()
        if connected is not None and not self.is_http11:
            # To HTTP/1.0 the end of the connection is the end of the answer, but for a reset.
            self.send_now()
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._abort()

    def finished(self) -> None:
        """Go on with the next request."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        self._note(exchange.status, "allowed", exchange.upstream_seconds)
        self._next(keep_alive=exchange.keep_alive)

    # Requests, one after the other.

    def _take(self, data: bytes) -> None:
        """Take in bytes from where the last ones ended."""
        steps = 0
        while data and self._transport is not None and not self._lingers:
            exchange = self._exchange
            steps += 1
            if steps > MAX_IN_A_TURN:
                self._keep(data)
                asyncio.get_running_loop().call_soon(self._go_on)
                return
            if self._arrival is None and self.is_writable:
                data = self._take_head(data)
            elif exchange is not None and exchange.takes_body and not exchange.is_sent and not self._is_held:
                data = self._take_body(exchange, data)
            elif exchange is not None and exchange.is_tunnel and not self._is_held:
                exchange.on_talk(data)
                return
            else:
                # It is not its turn yet.
                self._keep(data)
                if exchange is not None and not exchange.is_sent:
                    self._stop_reading()
                return

    def _keep(self, data: bytes) -> None:
        """Keep bytes for later, and read no more if there are many."""
        self._buffer = data
        if len(data) > MAX_AHEAD_BYTES:
            self._stop_reading()
            self._manager.unread.add(self)

    def _stop_reading(self) -> None:
        if self._transport is not None and not self._is_unread and not self._transport.is_closing():
            self._is_unread = True
            self._transport.pause_reading()

    def _read_again(self) -> None:
        if self._transport is not None and self._is_unread:
            self._is_unread = False
            self._manager.unread.discard(self)
            self._transport.resume_reading()

    def _take_head(self, data: bytes) -> bytes:
        """Begin a request if its head is there; return what comes after it."""
        # RFC 9112 section 2.2: an empty line before a request is ignored. One.
        start = 2 if data.startswith(b"\r\n") else 0
        if data.startswith(self._last_head, start):
            # A client that asks the same again means the same.
            self._searched = 0
            self._begin(self._last.reuse(self._manager.request_ids.id_for(self._last.request)))
            return data[start + len(self._last_head) :]
        try:
            end = parser.head_end(data, self._searched)
            if end < 0:
                if not self._searched:
                    self.deadline = time.monotonic() + HEAD_SECONDS
                self._buffer, self._searched = data, len(data)
                return b""
            self._searched = 0
            head = data[start:end]
            request = parser.parse_request(head)
        except BadMessage as error:
            self.refuse(_problem_of(error))
            return b""
        context = RequestContext(request, self.peer, b"http", self._manager.request_ids.id_for(request))
        if request.body is None and len(head) <= MAX_KEPT_HEAD:
            self._last_head, self._last = head, context
        self._begin(context)
        return data[end:]

    def _take_body(self, exchange: Exchange, data: bytes) -> bytes:
        body = exchange.body
        assert body is not None  # noqa: S101 - it takes one
        try:
            content, surplus = body.take(data)
        except BadMessage as error:
            exchange.give_up(_problem_of(error))
            return b""
        self._body_bytes += len(data)
        is_due = self._body_since + CLIENT_SECONDS + self._body_bytes / BODY_BYTES_PER_SECOND
        self.expect(min(CLIENT_SECONDS, is_due - time.monotonic()))
        if content:
            exchange.on_body(content)
        if body.done and self._exchange is exchange:
            exchange.on_body_end(body.trailers)
        return surplus

    def _begin(self, context: RequestContext) -> None:
        self._started_at = time.monotonic()
        self.is_http11 = context.request.is_http11
        self._arrival = context
        snapshot = self._runtime.current
        try:
            if not context.host:
                snapshot.admission.locate(context)
            if context.is_local:
                self._answer_here(context)
                return
            self._log.begin(context)
            preflight = snapshot.admission.preflight(context)
            if preflight is not None:
                self._note(_NO_CONTENT, "preflight", 0.0)
                self._respond(_NO_CONTENT, [*preflight, (b"x-request-id", context.request_id)], b"")
                return
            snapshot.admission.admit(context)
        except ProblemError as error:
            self.refuse(error.problem)
        except OstiaryError as error:
            self.refuse(problem_for(error))
        except Exception:  # noqa: BLE001 - whatever it is, it is this request's alone
            _log.exception("unhandled error")
            self.refuse(INTERNAL_ERROR)
        else:
            exchange = self._exchange = self._exchange_of(self, context, snapshot)
            exchange.start()

    def _next(self, *, keep_alive: bool) -> None:
        """Go on with what has come meanwhile, or end."""
        self._arrival = None
        if self._transport is None:
            return
        if not keep_alive or self._manager.is_ending:
            self._linger()
            return
        self._is_held = False
        if self.is_writable:
            self._await_next()

    def _await_next(self) -> None:
        """Read the next request."""
        self.deadline = time.monotonic() + KEEP_ALIVE_SECONDS
        if self._buffer:
            # Not from within what has just ended.
            asyncio.get_running_loop().call_soon(self._go_on)
        self._read_again()

    def _go_on(self) -> None:
        """Take what has been kept."""
        if self._buffer and not self._lingers:
            data, self._buffer = self._buffer, b""
            if self._arrival is None:
                self.deadline = time.monotonic() + HEAD_SECONDS
            if not self._is_held:
                self._read_again()
            self._take(data)

    def _linger(self) -> None:
        """End the answer, and forget what comes until the client closes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._lingers = True
        self._buffer, self._searched = b"", 0
        self.send_now()
        self._untaken = self._not_taken_yet()
        self._taken_by = time.monotonic() + CLIENT_SECONDS
        self.expect(LINGER_SECONDS)
        if transport.can_write_eof():
            transport.write_eof()
        self._read_again()

    def _close(self) -> None:
        if self._transport is not None:
            self.deadline = time.monotonic() + CLIENT_SECONDS
            self._lingers = True
            self.send_now()
            self._transport.close()

    def _note(self, status: int, decision: str, upstream_seconds: float) -> None:
        context = self._arrival
        if context is None:
            return
        self._log.add(context, status, decision, time.monotonic() - self._started_at, upstream_seconds)

    def _respond(self, status: int, fields: Fields, content: bytes) -> None:
        """Answer a request here, and go on. Without content, the response has none."""
        request = self._arrival.request if self._arrival is not None else None
        keep_alive = request is not None and request.keep_alive and (request.body is None or request.body.done)
        if self._manager.is_ending:
            keep_alive = False
        more = [(b"date", self._manager.date)]
        if status != _NO_CONTENT:
            more.append((b"content-length", b"%d" % len(content)))
        if not keep_alive:
            more.append((b"connection", b"close"))
        elif request is not None and not request.is_http11:
            more.append((b"connection", b"keep-alive"))
        self.write(head(status, [*fields, *more]))
        self._is_kept = keep_alive
        if request is None or request.method != "HEAD":
            self._content = content
        self._go_on_answering()

    def _go_on_answering(self) -> None:
        """Write as much of an answer as the client takes: it may be large, and nobody need read it."""
        while self._written < len(self._content) and self.is_writable:
            self.write(self._content[self._written : self._written + PIECE_BYTES])
            self._written += PIECE_BYTES
        if self._written >= len(self._content):
            self._content, self._written = b"", 0
            self._next(keep_alive=self._is_kept)

    # The gateway's own endpoints.

    def _answer_here(self, context: RequestContext) -> None:
        # It has a time of its own.
        self.deadline = _NEVER
        task = self._answer = asyncio.create_task(self._ask_own(context))
        self._own.server_state.tasks.add(task)
        task.add_done_callback(self._own.server_state.tasks.discard)

    async def _ask_own(self, context: RequestContext) -> None:
        try:
            status, fields, content = await self._own.answer(context, self.peer)
        except ProblemError as error:
            self._answer = None
            self.refuse(error.problem)
            return
        self._answer = None
        self._respond(status, fields, content)


def _problem_of(error: BadMessage) -> Problem:
    match error:
        case TooLarge():
            return _TOO_LARGE
        case UnknownVersion():
            return _UNKNOWN_VERSION
        case UnknownCoding():
            return _UNKNOWN_CODING
        case _:
            return _INVALID
