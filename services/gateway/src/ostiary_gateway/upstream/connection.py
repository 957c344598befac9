"""One connection to an upstream. It carries one request at a time and is reused only if that is safe.

It is safe if the last response ended by its own framing, nothing came after it, and the whole request had been sent.
Surplus bytes would be taken for the response to the next request, which may be another client's.

                   +------- reusable: back to the pool --------+
                   v                                           |
    connected -> IDLE -- send --> AWAITING_HEAD -- final --> BODY
                                    |      ^ |                 |
                                    |      +-+ interim         |
                                    +-- 101 --> TUNNEL         |
                                                  |            |
    any state -- closed by either side, or not reusable --> CLOSED

Reading has states of its own. Content that takes long to decode is DEFERRED to the next turn of the event loop, so that
other connections have theirs; the exchange may pause a connection in either state.

    READING <-- resume/pause --> PAUSED
       |  ^                         |
       v  |                         v
    DEFERRED <- resume/pause -> DEFERRED_PAUSED
"""

import asyncio
import select
import time
from enum import Enum
from typing import Final, Protocol

import structlog

from ostiary_gateway.http1.body import Body, ContentLengthBody
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response, head_end, parse_response
from ostiary_gateway.http1.status import FIRST_REDIRECTION
from ostiary_gateway.http1.write_buffer import FlushQueue, WriteBufferedProtocol
from ostiary_gateway.state import State
from ostiary_gateway.upstream.read_out import received_bytes

SWITCHING_PROTOCOLS = 101

#: Interim responses (1xx) before the final one. One or two are usual.
MAX_INTERIM_RESPONSES = 16

#: Bytes of a head that is kept in case it repeats.
MAX_KEPT_HEAD = 16 * 1024

#: Bytes buffered for the upstream before the client is paused.
HIGH_WATER = 256 * 1024

#: Methods whose request content has no defined meaning (RFC 9110 section 9.3).
_METHODS_WITHOUT_CONTENT = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

IDLE: Final = State("idle")
AWAITING_HEAD: Final = State("awaiting head")
BODY: Final = State("body")
TUNNEL: Final = State("tunnel")
CLOSED: Final = State("closed")
IDLE.leads_to(AWAITING_HEAD, CLOSED)
AWAITING_HEAD.leads_to(BODY, TUNNEL, CLOSED)
BODY.leads_to(IDLE, CLOSED)
TUNNEL.leads_to(CLOSED)

READING: Final = State("reading")
PAUSED: Final = State("paused")
DEFERRED: Final = State("deferred")
DEFERRED_PAUSED: Final = State("deferred and paused")
READING.leads_to(PAUSED, DEFERRED)
PAUSED.leads_to(READING, DEFERRED_PAUSED)
DEFERRED.leads_to(READING, DEFERRED_PAUSED)
DEFERRED_PAUSED.leads_to(DEFERRED)

_log = structlog.stdlib.get_logger("upstream")


class Failure(Enum):
    """Why there is no response, or only a part of one."""

    UNREACHABLE = "connection failed"
    OVERLOADED = "too many queued requests, or circuit breaker open"
    #: On a reused connection: the upstream may have closed it before it saw the request.
    STALE = "reused connection closed"
    BROKEN = "connection closed before the end of the response"
    INVALID = "invalid HTTP response"
    SLOW = "timed out"


class ResponseHandler(Protocol):
    """Asks for a connection, sends a request on it and receives the response."""

    #: Whether it sends its request again if a reused connection turns out to be closed.
    is_repeatable: bool

    @property
    def caller(self) -> str:
        """The client on whose behalf, for fair shares of the connections."""

    def on_connection(self, connection: "UpstreamConnection") -> None:
        """Send the request on this connection."""

    def on_head(self, response: Response) -> None:
        """Handle an interim or final response head."""

    def on_content(self, content: bytes) -> None:
        """Handle a part of the response's body."""

    def on_read_complete(self) -> None:
        """Flush: all that has arrived has been handled."""

    def on_end(self, trailers: Fields) -> None:
        """End the response, or the tunnel."""

    def on_tunnel(self, data: bytes) -> None:
        """Handle bytes of the protocol switched to."""

    def on_failure(self, failure: Failure) -> None:
        """Handle that nothing more comes."""

    def on_writable(self, writable: bool) -> None:
        """Write more of the request, or hold it."""


class Owner(Protocol):
    """Where a connection comes from and goes back to."""

    name: str
    host: bytes
    flush_queue: FlushQueue
    #: Bytes of a head.
    header_bytes: int

    def put_back(self, connection: "UpstreamConnection") -> None:
        """Take back a connection that is safe to reuse."""

    def forget(self, connection: "UpstreamConnection") -> None:
        """Forget a closed connection."""

    def succeeded(self) -> None:
        """Count a response."""

    def failed(self, caller: str) -> None:
        """Count a request of this caller that the upstream failed to answer."""


class UpstreamConnection(WriteBufferedProtocol):
    """A connection to an upstream; the module's head draws its states."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.flush_queue)
        self._owner = owner
        self._state: State = IDLE
        self._reading: State = READING
        self._handler: ResponseHandler | None = None
        self._method = ""
        self._has_content = False
        self._response: Response | None = None
        self._interim_responses = 0
        #: A part of a head, or content that is deferred.
        self._buffer = b""
        #: The last head, its request's method, its parsed form and its content length: responses repeat.
        self._last: tuple[bytes, str, Response, int] | None = None
        #: Whether the whole request has been sent.
        self.is_request_sent = False
        #: Whether more of a request can be written.
        self.is_writable = True
        #: Whether a response has been received on it before.
        self.is_reused = False
        #: The client on whose behalf it is used, as the owner counts it; None if it is used for nobody.
        self.caller: str | None = None
        self._poll: select.poll | None = None
        self.opened_at = self.idle_since = time.monotonic()

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)

    # Called by the pool and the exchange.

    @property
    def host(self) -> bytes:
        """The value of the `Host` field."""
        return self._owner.host

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def is_quiet(self) -> bool:
        """Return whether the upstream has sent nothing since the last response, nor closed.

        Events of other connections may have kept the event loop from noticing.
        """
        poll, transport = self._poll, self._transport
        if poll is None and transport is not None:
            poll = self._poll = select.poll()
            poll.register(transport.get_extra_info("socket"), select.POLLIN | select.POLLRDHUP)
        return poll is not None and not poll.poll(0)

    def send_request(self, handler: ResponseHandler, method: str, head: bytes, *, has_content: bool) -> None:
        """Send a request's head. With content, `end_request` must follow; without, this is all of it."""
        self._enter(AWAITING_HEAD)
        self._handler = handler
        self._method = method
        self._has_content = has_content
        self._response = None
        self._interim_responses = 0
        self.is_request_sent = not has_content
        self.write(head)

    def give_back(self) -> None:
        """Go back to the owner: no request is sent on it."""
        self._owner.put_back(self)

    def end_request(self) -> None:
        """Note that all content has been written."""
        self.is_request_sent = True

    def pause(self) -> None:
        """Stop reading."""
        if self._reading is READING:
            self._reading = self._reading.to(PAUSED)
            self._pause_reading()
        elif self._reading is DEFERRED:
            self._reading = self._reading.to(DEFERRED_PAUSED)

    def resume(self) -> None:
        """Read again."""
        if self._reading is PAUSED:
            self._reading = self._reading.to(READING)
            self._resume_reading()
        elif self._reading is DEFERRED_PAUSED:
            self._reading = self._reading.to(DEFERRED)
            asyncio.get_running_loop().call_soon(self._read_deferred)

    def abort(self) -> None:
        """Close at once. The handler hears nothing more."""
        self._handler = None
        self._close()

    def close_with(self, data: bytes) -> None:
        """Send these last bytes, unless others are still to be sent, and close. The handler hears nothing more."""
        self._handler = None
        if not data or self.unsent or not self.is_open:
            self._close()
            return
        self._enter(CLOSED)
        self.write(data)
        self.flush()
        assert self._transport is not None  # noqa: S101 - it is open
        self._transport.close()

    def fail(self, failure: Failure) -> None:
        """Close, and report a failure. Only a timeout counts against the upstream; the caller may cause the others."""
        if failure is Failure.SLOW and self.is_request_sent and self.caller is not None:
            self._owner.failed(self.caller)
        handler, self._handler = self._handler, None
        self._close()
        if handler is not None:
            handler.on_failure(failure)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream
        self._transport.set_write_buffer_limits(HIGH_WATER)  # type: ignore[union-attr]  # set above

    def data_received(self, data: bytes) -> None:
        if self._reading is DEFERRED or self._reading is DEFERRED_PAUSED:
            self._buffer += data
        else:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:
            # No request is outstanding.
            self._close()
            return
        try:
            if self._state is TUNNEL:
                handler.on_tunnel(data)
                return
            if self._state is AWAITING_HEAD:
                data = self._read_heads(handler, data)
            if self._state is BODY and self._handler is handler:
                self._read_content(handler, data)
        except BadMessage as error:
            _log.warning("invalid response", upstream=self._owner.name, error=str(error))
            self.fail(Failure.INVALID)
            return
        if self._handler is handler:
            handler.on_read_complete()

    def eof_received(self) -> bool:
        # An upstream that has closed its side sends nothing more, and answers no other request.
        handler = self._handler
        if handler is not None and self._state is BODY and self._body().end():
            # RFC 9112 section 9.8: a close-delimited body is complete if the peer closed in an orderly way. With TLS,
            # the end of the TCP connection alone is none, and does not come here.
            self._end_response(handler, self._body(), is_clean=False)
        elif handler is not None and self._state is not TUNNEL:
            # The rest of the request, which the transport would send first, is of no use.
            self._abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._read_out()
        self._transport = None
        state, handler, caller = self._state, self._handler, self.caller
        self._handler = None
        if state is not CLOSED:
            self._enter(CLOSED)
        self._owner.forget(self)
        if handler is None:
            return
        if state is TUNNEL:
            handler.on_end([])
        elif state is BODY:
            handler.on_failure(Failure.BROKEN)
        elif self.is_reused and not self._buffer and not self._interim_responses:
            handler.on_failure(Failure.STALE)
        else:
            if self.is_request_sent and caller is not None:
                # A client that has not sent all of its request may be the reason for this.
                self._owner.failed(caller)
            handler.on_failure(Failure.BROKEN)

    def pause_writing(self) -> None:
        self.is_writable = False
        if self._handler is not None:
            self._handler.on_writable(False)

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._handler is not None:
            self._handler.on_writable(True)

    # Responses.

    def _read_heads(self, handler: ResponseHandler, data: bytes) -> bytes:
        """Read heads up to the final one if it is there; return what follows it. Raises BadMessage."""
        searched = len(self._buffer)
        if searched:
            data, self._buffer = self._buffer + data, b""
        while (end := self._head_end(data, searched)) >= 0:
            response = self._parse_head(data[:end])
            data, searched = data[end:], 0
            if response.status == SWITCHING_PROTOCOLS:
                self._owner.succeeded()
                self._enter(TUNNEL)
                handler.on_head(response)
                if self._handler is handler and data:
                    handler.on_tunnel(data)
                return b""
            if not response.is_final:
                self._interim_responses += 1
                if self._interim_responses > MAX_INTERIM_RESPONSES:
                    raise BadMessage("too many interim responses")
                handler.on_head(response)
                if self._handler is not handler:
                    return b""
                continue
            # Whatever becomes of the response, the upstream is alive.
            self._owner.succeeded()
            handler.on_head(response)
            if self._handler is handler:
                self._response = response
                self._enter(BODY)
            return data
        self._buffer = data
        return b""

    def _head_end(self, data: bytes, searched: int) -> int:
        """Return the length of the head, -1 if it is incomplete. Raises BadMessage."""
        last, limit = self._last, self._owner.header_bytes
        return len(last[0]) if last is not None and data.startswith(last[0]) else head_end(data, searched, limit)

    def _parse_head(self, head: bytes) -> Response:
        """Parse a head, or reuse the last one if it is the same. Raises BadMessage."""
        if self._last is not None:
            last_head, last_method, response, length = self._last
            if head == last_head and self._method == last_method:
                # The exchange that it belonged to has ended.
                response.body = ContentLengthBody(length)
                return response
        response = parse_response(head, self._method)
        if isinstance(response.body, ContentLengthBody) and len(head) <= MAX_KEPT_HEAD:
            self._last = head, self._method, response, response.body.left
        return response

    def _read_content(self, handler: ResponseHandler, data: bytes) -> None:
        body = self._body()
        content, rest = body.take(data)
        if content:
            handler.on_content(content)
        if self._handler is not handler:
            return
        if body.done:
            self._end_response(handler, body, is_clean=not rest)
        elif rest:
            self._defer(rest)

    def _body(self) -> Body:
        assert self._response is not None  # noqa: S101 - in state BODY
        return self._response.body

    def _end_response(self, handler: ResponseHandler, body: Body, *, is_clean: bool) -> None:
        self._handler = None
        if is_clean and self._is_reusable():
            self._enter(IDLE)
            self.is_reused = True
            if self._reading is PAUSED:
                self.resume()
            self._owner.put_back(self)
        else:
            self._close()
        handler.on_end(body.trailers)

    def _is_reusable(self) -> bool:
        assert self._response is not None  # noqa: S101 - in state BODY
        if not self._response.keep_alive or not self.is_request_sent:
            return False
        # A server that expects no content with a method, or has not read all of it, may take it for the next request.
        return not self._has_content or (not self.unsent and self._method not in _METHODS_WITHOUT_CONTENT)

    # Reading in turns.

    def _defer(self, rest: bytes) -> None:
        self._buffer = rest
        if self._reading is READING:
            self._reading = self._reading.to(DEFERRED)
            self._pause_reading()
            asyncio.get_running_loop().call_soon(self._read_deferred)
        else:
            self._reading = self._reading.to(DEFERRED_PAUSED)

    def _read_deferred(self) -> None:
        if self._reading is not DEFERRED:
            return
        self._reading = self._reading.to(READING)
        data, self._buffer = self._buffer, b""
        self.data_received(data)
        if self._reading is READING:
            self._resume_reading()

    # The end.

    def _read_out(self) -> None:
        """Handle what arrived before the connection broke.

        An upstream that turns a request away early may close without reading the rest of its content. Then sending it
        fails, and the transport reads no more; but the system still has the response.
        """
        if self._transport is None or self._handler is None:
            return
        left = received_bytes(self._transport)
        while self._handler is not None:
            # The client's pauses no longer count: there is nobody left to slow down.
            if self._reading is PAUSED:
                self._reading = self._reading.to(READING)
            elif self._reading is DEFERRED_PAUSED:
                self._reading = self._reading.to(DEFERRED)
            if self._reading is DEFERRED:
                self._reading = self._reading.to(READING)
                left, self._buffer = self._buffer + left, b""
            if not left:
                break
            data, left = left, b""
            self._receive(data)
        self._end_refusal()

    def _end_refusal(self) -> None:
        """Take a response without a length for complete if it turns a request with content away.

        TCP does not tell whether it is: content that is left unread causes a reset in any case.
        """
        handler, response = self._handler, self._response
        if self._state is not BODY or handler is None or response is None:
            return
        if response.status >= FIRST_REDIRECTION and self._has_content and response.body.end():
            self._end_response(handler, response.body, is_clean=False)

    def _close(self) -> None:
        if self._state is not CLOSED:
            self._enter(CLOSED)
        self._abort()
