"""A client's connection: requests are read and answered one after the other.

    connected --> IDLE -- a part of a head --> HEAD      A parsed head leads from IDLE or HEAD to
                   ^                                       EXCHANGE     if an upstream answers it,
                   |                                       LOCAL_CALL   if the gateway's own endpoints do,
                   |                                       RENEWING     if its session needs a new token first,
                   |                                       RESPONDING   if it is rejected, or OPTIONS.
                   |
                   +-- keep-alive ------- EXCHANGE, RESPONDING      LOCAL_CALL -- answered --> RESPONDING
                   |                         | |   EXCHANGE -- no response, or rejected --> RESPONDING
    FLUSHING ------+                         | +------- 101 --------> TUNNEL       RENEWING -- answer --> as a head
       ^   the client has read the response  |
       +-------- it has not yet -------------+

    EXCHANGE -- the token has ended before the request was sent --> as a head
    EXCHANGE, TUNNEL, RESPONDING -- no further request --> LINGERING
    IDLE, HEAD, FLUSHING, LINGERING -- nothing to answer --> CLOSING
    any state -- connection lost --> CLOSED

In IDLE and HEAD, received bytes are parsed; in EXCHANGE and TUNNEL they go on to the exchange while that accepts them;
in LINGERING and CLOSING they are discarded; otherwise they are kept for later, within limits.
"""

import asyncio
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from ostiary.errors import OstiaryError
from ostiary.http import Problem, problem_for
from ostiary_chassis.problems import INTERNAL_ERROR, ProblemError
from ostiary_chassis.proxies import source_of
from ostiary_gateway.access import cors
from ostiary_gateway.access.renewal import Renewal, RenewalNeeded, Session
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.access.unread_head import UnreadHead
from ostiary_gateway.http1.errors import BadMessage, TooLarge
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import parse_request
from ostiary_gateway.http1.status import NO_CONTENT, SEE_OTHER
from ostiary_gateway.http1.write_buffer import WriteBufferedProtocol
from ostiary_gateway.observability.access_log import AccessLog
from ostiary_gateway.proxy.asgi_bridge import AsgiBridge
from ostiary_gateway.proxy.connection_manager import ConnectionManager
from ostiary_gateway.proxy.exchange import Exchange
from ostiary_gateway.proxy.head_reader import HeadReader
from ostiary_gateway.proxy.local_response import LocalResponse, local_head, may_keep_alive, problem_fields, with_cors
from ostiary_gateway.proxy.problems import (
    BODY_TIMEOUT,
    HEAD_TIMEOUT,
    HEAD_TOO_LARGE,
    TOO_MANY_CONNECTIONS,
    problem_of_message,
)
from ostiary_gateway.proxy.slow_reader import LINGER_SECONDS, STALL_SECONDS, LingeringClose, SlowReader, unsent_bytes
from ostiary_gateway.runtime import Runtime, Snapshot
from ostiary_gateway.state import State

#: Seconds for a head to arrive, from the connection or from its first byte.
HEAD_SECONDS = 20.0

#: Seconds for the next part of a body to arrive; and bytes a second at which all of it has to arrive after those: a
#: request holds a connection to the service, and of those there are few.
CONTENT_SECONDS = 30.0
MIN_CONTENT_BYTES_PER_SECOND = 1024

#: Seconds for the next request. Longer than clients and proxies wait, so that it is they that close and no request
#: meets a closing connection.
KEEP_ALIVE_SECONDS = 75.0

#: Seconds for the first request of a connection that was made just before the gateway has stopped listening.
STOPPING_SECONDS = 1.0

#: Pipelined requests begun in one turn of the event loop; other connections have theirs in between.
MAX_REQUESTS_PER_TURN = 16

#: Bytes buffered for the client before the other side is paused.
HIGH_WATER = 256 * 1024

#: Bytes of further requests buffered before the connection is no longer read.
MAX_PIPELINED_BYTES = 64 * 1024

#: Bytes that the system buffers for a client beyond those in flight; its own limit is four times as many.
MAX_NOT_SENT = 1024 * 1024

IDLE: Final = State("idle")
HEAD: Final = State("head")
EXCHANGE: Final = State("exchange")
TUNNEL: Final = State("tunnel")
LOCAL_CALL: Final = State("local call")
RENEWING: Final = State("renewing")
RESPONDING: Final = State("responding")
FLUSHING: Final = State("flushing")
LINGERING: Final = State("lingering")
CLOSING: Final = State("closing")
CLOSED: Final = State("closed")
IDLE.leads_to(HEAD, EXCHANGE, LOCAL_CALL, RENEWING, RESPONDING, FLUSHING, CLOSING, CLOSED)
HEAD.leads_to(EXCHANGE, LOCAL_CALL, RENEWING, RESPONDING, FLUSHING, CLOSING, CLOSED)
RENEWING.leads_to(EXCHANGE, LOCAL_CALL, RENEWING, RESPONDING, CLOSED)
EXCHANGE.leads_to(IDLE, EXCHANGE, TUNNEL, RENEWING, RESPONDING, FLUSHING, LINGERING, CLOSED)
TUNNEL.leads_to(LINGERING, CLOSED)
LOCAL_CALL.leads_to(RESPONDING, CLOSED)
RESPONDING.leads_to(IDLE, FLUSHING, LINGERING, CLOSED)
FLUSHING.leads_to(IDLE, CLOSING, CLOSED)
LINGERING.leads_to(CLOSING, CLOSED)
CLOSING.leads_to(CLOSED)

#: Statuses in the access log, which nobody receives: the client has closed; the shutdown cut the request off.
_CLIENT_LEFT = 499
_CUT_OFF = 503

_NEVER = float("inf")

#: Stands for a request that could not be parsed.
_UNREADABLE = parse_request(b"- - HTTP/1.1\r\nConnection: close\r\n\r\n")

_log = structlog.stdlib.get_logger("proxy")


class ClientConnection(WriteBufferedProtocol):
    """A connection with a client; the module's head draws its states. The Client of its exchanges."""

    def __init__(
        self,
        manager: ConnectionManager,
        runtime: Runtime,
        exchange_of: Callable[["ClientConnection", RequestContext, Snapshot], Exchange],
        bridge: AsgiBridge,
        log: AccessLog,
    ) -> None:
        super().__init__(manager.flush_queue)
        self._manager = manager
        self._runtime = runtime
        self._exchange_of = exchange_of
        self._bridge = bridge
        self._log = log
        self._state: State = IDLE
        self.peer = "unknown"
        #: When `on_deadline` is called, in seconds on the monotonic clock.
        self.deadline = _NEVER
        #: Received bytes for later.
        self._buffer = b""
        self._heads = HeadReader(manager.request_ids, manager.large_heads)
        #: A head that is no request; and the response to one over the limit.
        self._unread: UnreadHead | None = None
        self._too_large = HEAD_TOO_LARGE
        #: The current request, and when it began.
        self._context: RequestContext | None = None
        self._started_at = 0.0
        self._exchange: Exchange | None = None
        self._local_call: asyncio.Task[None] | None = None
        self._response: LocalResponse | None = None
        #: The session for whose renewal the request waits.
        self._renewing: Session | None = None
        #: Since when a body has been read, and how many of its bytes have arrived since.
        self._content_since, self._content_bytes = 0.0, 0
        self._slow_reader = SlowReader()
        self._lingering: LingeringClose | None = None
        #: Flow control: whether the exchange has paused its input, and whether the client reads.
        self._is_input_paused = False
        self.is_writable = True
        self.is_http11 = True

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream
        transport.set_write_buffer_limits(HIGH_WATER)  # type: ignore[attr-defined]  # the same
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unknown"
        connected = self._socket()
        if connected is not None and hasattr(socket, "TCP_NOTSENT_LOWAT") and connected.family != socket.AF_UNIX:
            # What a client does not read must not fill the system's buffers.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_NOT_SENT)
        self._bridge.server_state.connections.add(self)
        self.deadline = time.monotonic() + (STOPPING_SECONDS if self._manager.is_stopping else HEAD_SECONDS)
        if not self._manager.add(self):
            self.reject(TOO_MANY_CONNECTIONS)

    def connection_lost(self, _error: Exception | None) -> None:
        was_tunnel = self._state is TUNNEL
        self._transport = None
        self._enter(CLOSED)
        self._heads.drop()
        self._manager.remove(self)
        self._bridge.server_state.connections.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_lost()
            if was_tunnel:
                self._record(exchange.status, "allowed", exchange.upstream_seconds)
            else:
                self._record(_CLIENT_LEFT, "client_left", exchange.upstream_seconds)
        if self._local_call is not None:
            self._local_call.cancel()
        if self._renewing is not None:
            self._leave_renewal()
            self._record(_CLIENT_LEFT, "client_left", 0.0)

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            self._lingering.discarded += len(data)
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        self._receive(data)

    def eof_received(self) -> bool:
        # A client that closes its side has gone, as far as can be told.
        return False

    def pause_writing(self) -> None:
        self.is_writable = False
        self._slow_reader.start(self._pending_bytes())
        self.expect(STALL_SECONDS)
        if self._exchange is not None:
            self._exchange.on_client_writable(False)
        elif self._state is IDLE or self._state is HEAD:
            self._enter(FLUSHING)

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._exchange is not None:
            self._exchange.on_client_writable(True)
        elif self._state is RESPONDING:
            self._write_response()
        elif self._state is FLUSHING:
            self._await_request()

    # Called by uvicorn.

    def shutdown(self) -> None:
        """Close after the request under way; end what has no end."""
        if self._exchange is not None:
            self._exchange.on_shutdown()
        elif self._state is IDLE and not self._started_at:
            # It may have been made for a request that is on its way.
            self.expect(STOPPING_SECONDS)
        elif self._context is None and self._state is not HEAD:
            self._close()

    # Called by the connection manager.

    def on_deadline(self) -> None:
        """Handle that something did not happen in time."""
        self.deadline = _NEVER
        exchange, now = self._exchange, time.monotonic()
        if self._lingering is not None:
            self._extend_or_abort(self._lingering.extension(self._pending_bytes(), now))
        elif not self.is_writable:
            keeps_up = self._slow_reader.keeps_up(self._pending_bytes())
            is_over = exchange is not None and exchange.ends_at <= now
            self._extend_or_abort(STALL_SECONDS if keeps_up and not is_over else 0.0)
        elif exchange is not None and exchange.accepts_content and not self._is_input_paused:
            exchange.give_up(BODY_TIMEOUT)
        elif exchange is not None:
            exchange.on_timeout()
        elif self._heads.is_partial:
            self.reject(HEAD_TIMEOUT)
        elif self._unread is not None:
            self.reject(self._too_large)
        else:
            self._close()

    def check_peer_closed(self) -> None:
        """Give up if the client has closed. Without reading, nothing else tells."""
        connected = self._socket()
        if connected is None:
            return
        poll = select.poll()
        poll.register(connected.fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._abort()

    def cut_off(self) -> None:
        """Close at once, whatever is going on."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_lost()
            self._record(exchange.status or _CUT_OFF, "gateway_shutdown", exchange.upstream_seconds)
            self._context = None
        elif self._renewing is not None:
            self._leave_renewal()
            self._record(_CUT_OFF, "gateway_shutdown", 0.0)
        self._abort()

    # Called by the exchange.

    @property
    def is_draining(self) -> bool:
        """Whether the connection is closed after the response."""
        return self._manager.is_draining

    @property
    def is_stopping(self) -> bool:
        """Whether the gateway waits for this response to end."""
        return self._manager.is_stopping

    @property
    def date(self) -> bytes:
        """The value of the `Date` field."""
        return self._manager.date

    def expect(self, seconds: float) -> None:
        """Set the deadline, but not beyond the end of the exchange."""
        until = time.monotonic() + seconds
        exchange = self._exchange
        self.deadline = until if exchange is None or until < exchange.ends_at else exchange.ends_at

    def pause_input(self) -> None:
        """Stop reading."""
        self._is_input_paused = True
        self._pause_reading()

    def resume_input(self) -> None:
        """Read content, or bytes of a tunnel."""
        self._is_input_paused = False
        self._content_since, self._content_bytes = time.monotonic(), 0
        if self._exchange is not None and not self._exchange.is_request_sent:
            self.expect(CONTENT_SECONDS)
        self._resume_reading()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self._receive(data)

    def enter_tunnel(self) -> None:
        """Pass on what the client sends as it is."""
        self._enter(TUNNEL)

    def reject(self, problem: Problem) -> None:
        """Respond with a problem."""
        exchange, self._exchange = self._exchange, None
        context = self._context
        if context is None:
            request_id = self._manager.request_ids.id_for(_UNREADABLE)
            context = self._context = RequestContext(_UNREADABLE, self.peer, b"http", request_id)
            self._started_at = time.monotonic()
            unread = self._unread or UnreadHead(self._heads.partial)
            context.cors = self._runtime.current.admission.cors_of_unread(unread)
        elif context.route is None:
            context.cors = self._runtime.current.admission.cors_without_route(context)
        self._record(problem.status, problem.code, exchange.upstream_seconds if exchange is not None else 0.0)
        self._respond(context, problem.status, problem_fields(problem, context), problem.to_json())

    def admit_again(self) -> None:
        """Decide about the request anew: the token that it was admitted by is no longer good."""
        self._exchange = None
        if self._context is not None:
            self._context.admit_again()
            self._admit(self._context)

    def abort_response(self) -> None:
        """Close the connection within a response."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._record(exchange.status, "response_aborted", exchange.upstream_seconds)
        connected = self._socket()
        if connected is not None and not self.is_http11:
            # To HTTP/1.0 an orderly close is the end of the response, but a reset is not.
            self.flush()
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._abort()

    def end_exchange(self) -> None:
        """Go on with the next request."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        self._record(exchange.status, "allowed", exchange.upstream_seconds)
        self._end_request(keep_alive=exchange.keep_alive)

    # Requests, one after the other.

    def _receive(self, data: bytes) -> None:
        steps = 0
        while data and self._transport is not None and self._lingering is None:
            exchange, state = self._exchange, self._state
            steps += 1
            if steps > MAX_REQUESTS_PER_TURN:
                self._keep(data)
                asyncio.get_running_loop().call_soon(self._continue)
                return
            if state is IDLE or state is HEAD:
                data = self._receive_head(data)
            elif exchange is not None and exchange.accepts_content and not self._is_input_paused:
                data = self._receive_content(exchange, data)
            elif exchange is not None and state is TUNNEL and not self._is_input_paused:
                exchange.on_tunnel_data(data)
                return
            else:
                self._keep(data)
                if exchange is not None and not exchange.is_request_sent:
                    self._pause_reading()
                return

    def _receive_head(self, data: bytes) -> bytes:
        """Begin a request if its head is complete; return what follows it."""
        if self._unread is not None:
            self._receive_unread(self._unread, data)
            return b""
        is_new = not self._heads.is_partial
        try:
            context, rest = self._heads.read(data, self.peer, self._runtime.current.head_bytes)
        except BadMessage as error:
            self._unread, self._too_large = UnreadHead(self._heads.partial or data), problem_of_message(error)
            self._heads.drop()
            if isinstance(error, TooLarge) and not self._unread.is_done and self._runtime.current.admission.has_cors:
                self._await_head(is_new=is_new)
            else:
                self.reject(self._too_large)
            return b""
        if context is not None:
            self._begin(context)
            return rest
        self._await_head(is_new=is_new)
        return b""

    def _await_head(self, *, is_new: bool) -> None:
        """Wait for more of a head."""
        if is_new:
            self.deadline = time.monotonic() + HEAD_SECONDS
        if self._state is IDLE:
            self._enter(HEAD)

    def _receive_unread(self, unread: UnreadHead, data: bytes) -> None:
        """Read a head over the limit until it is known whose page gets to read the response."""
        unread.take(data)
        if unread.is_done:
            self.reject(self._too_large)

    def _receive_content(self, exchange: Exchange, data: bytes) -> bytes:
        body = exchange.body
        assert body is not None  # noqa: S101 - it accepts content
        try:
            content, surplus = body.take(data)
        except BadMessage as error:
            exchange.give_up(problem_of_message(error))
            return b""
        self._content_bytes += len(data)
        is_due = self._content_since + CONTENT_SECONDS + self._content_bytes / MIN_CONTENT_BYTES_PER_SECOND
        self.expect(min(CONTENT_SECONDS, is_due - time.monotonic()))
        if content:
            exchange.on_content_received(content)
        if body.done and self._exchange is exchange:
            exchange.on_request_end(body.trailers)
        return surplus

    def _begin(self, context: RequestContext) -> None:
        self._started_at = time.monotonic()
        self.is_http11 = context.request.is_http11
        self._context = context
        self._admit(context)

    def _admit(self, context: RequestContext) -> None:
        """Decide about a request: for the first time or again, by the routes as they are now."""
        snapshot = self._runtime.current
        try:
            if not self._is_for_upstream(context, snapshot):
                return
        except ProblemError as error:
            preflight = snapshot.admission.preflight_without_route(context)
            if preflight is None:
                self._refuse(context, snapshot, error.problem)
            else:
                self._answer_options(context, preflight)
        except OstiaryError as error:
            self._refuse(context, snapshot, problem_for(error))
        except RenewalNeeded as needed:
            self._await_renewal(context, needed.session)
        except Exception:  # noqa: BLE001 - a defect in the handling of this request must not end the others
            _log.exception("unhandled error")
            self.reject(INTERNAL_ERROR)
        else:
            exchange = self._exchange = self._exchange_of(self, context, snapshot)
            self._enter(EXCHANGE)
            exchange.start()

    def _is_for_upstream(self, context: RequestContext, snapshot: Snapshot) -> bool:
        """Return whether an upstream answers a request; if the gateway does, that has begun. Raises as `admit`."""
        if context.located_by is not snapshot.admission:
            snapshot.admission.locate(context)
        if context.is_local:
            self._begin_local(context, snapshot)
            return False
        if context.route is None:
            # For the first time.
            self._log.begin(context)
        if context.request.method == "OPTIONS":
            fields = snapshot.admission.own_options(context)
            if fields is not None:
                self._answer_options(context, fields)
                return False
        snapshot.admission.admit(context)
        self._log.add_lost_fields(context)
        return True

    def _refuse(self, context: RequestContext, snapshot: Snapshot, problem: Problem) -> None:
        """Respond with a problem, or lead a person to the login page."""
        location = snapshot.admission.login_page(context, problem)
        if location is None:
            self.reject(problem)
            return
        self._record(SEE_OTHER, problem.code, 0.0)
        fields = [(b"location", location), (b"cache-control", b"no-store"), (b"vary", b"Cookie")]
        self._respond(context, SEE_OTHER, [*fields, (b"x-request-id", context.request_id)], b"")

    # Renewals.

    def _await_renewal(self, context: RequestContext, session: Session) -> None:
        """Wait for a new access token. Received bytes are kept meanwhile."""
        self._enter(RENEWING)
        self._renewing = session
        # The renewal has a time limit of its own.
        self.deadline = _NEVER
        at_once = self._runtime.renewals.wait(session, source_of(context.client), context, self)
        if at_once is not None:
            self.on_renewal(context, at_once)

    def on_renewal(self, context: RequestContext, renewal: Renewal) -> None:
        """Decide about the request that waits, if it still does."""
        if self._renewing is None or self._context is not context:
            return
        self._renewing = None
        context.renewal = renewal
        context.renewals += 1
        context.admit_again()
        self._admit(context)

    def _leave_renewal(self) -> None:
        session, self._renewing = self._renewing, None
        if session is not None and self._context is not None:
            self._runtime.renewals.leave(session, self._context)

    def _end_request(self, *, keep_alive: bool) -> None:
        """Go on with the next request, or close."""
        self._context = None
        self._heads.release()
        if self._transport is None:
            return
        if not keep_alive or self._manager.is_draining:
            self._linger()
            return
        self._is_input_paused = False
        if self.is_writable:
            self._await_request()
        else:
            self._enter(FLUSHING)

    def _await_request(self) -> None:
        self._enter(IDLE)
        self.deadline = time.monotonic() + (HEAD_SECONDS if self._heads.is_partial else KEEP_ALIVE_SECONDS)
        if self._heads.is_partial:
            self._enter(HEAD)
        if self._buffer:
            # Not from within the end of the last one.
            asyncio.get_running_loop().call_soon(self._continue)
        self._resume_reading()

    def _continue(self) -> None:
        """Go on with the bytes that were kept."""
        if not self._buffer or self._lingering is not None:
            return
        data, self._buffer = self._buffer, b""
        if self._context is None:
            self.deadline = time.monotonic() + HEAD_SECONDS
        if not self._is_input_paused:
            self._resume_reading()
        self._receive(data)

    def _keep(self, data: bytes) -> None:
        self._buffer = data
        if len(data) > MAX_PIPELINED_BYTES:
            self._pause_reading()
            self._manager.paused.add(self)

    def _record(self, status: int, decision: str, upstream_seconds: float) -> None:
        context = self._context
        if context is not None:
            self._log.add(context, status, decision, time.monotonic() - self._started_at, upstream_seconds)

    # The gateway's own responses.

    def _respond(self, context: RequestContext, status: int, fields: Fields, content: bytes) -> None:
        self._enter(RESPONDING)
        request = context.request
        keep_alive = may_keep_alive(request) and not self._manager.is_draining
        self.write(local_head(request, status, fields, len(content), self._manager.date, keep_alive=keep_alive))
        self._response = LocalResponse(b"" if request.method == "HEAD" else content, keep_alive=keep_alive)
        self._write_response()

    def _write_response(self) -> None:
        response = self._response
        if response is not None and response.write_to(self):
            self._response = None
            self._end_request(keep_alive=response.keep_alive)

    def _answer_options(self, context: RequestContext, fields: Fields) -> None:
        self._record(NO_CONTENT, "preflight" if cors.is_preflight(context.request) else "options", 0.0)
        self._respond(context, NO_CONTENT, [*fields, (b"x-request-id", context.request_id)], b"")

    def _begin_local(self, context: RequestContext, snapshot: Snapshot) -> None:
        preflight = snapshot.admission.preflight_without_route(context)
        if preflight is None:
            context.cors = snapshot.admission.cors_without_route(context)
            self._call_local(context)
        else:
            self._answer_options(context, preflight)

    def _call_local(self, context: RequestContext) -> None:
        self._enter(LOCAL_CALL)
        # The call has a timeout of its own.
        self.deadline = _NEVER
        task = self._local_call = asyncio.create_task(self._answer_locally(context))
        self._bridge.server_state.tasks.add(task)
        task.add_done_callback(self._bridge.server_state.tasks.discard)

    async def _answer_locally(self, context: RequestContext) -> None:
        try:
            status, fields, content = await self._bridge.answer(context, self.peer)
        except ProblemError as error:
            self._local_call = None
            self.reject(error.problem)
        else:
            self._local_call = None
            self._respond(context, status, with_cors(fields, context), content)

    # The end of the connection.

    def _linger(self) -> None:
        """End the response, and read on until the client closes: see LINGER_SECONDS."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._enter(LINGERING)
        self._buffer = b""
        self.flush()
        self._lingering = LingeringClose(self._pending_bytes(), time.monotonic())
        self.expect(LINGER_SECONDS)
        if transport.can_write_eof():
            transport.write_eof()
        self._resume_reading()

    def _close(self) -> None:
        """Close when all has been sent."""
        if self._transport is None or self._transport.is_closing():
            return
        self._enter(CLOSING)
        self.flush()
        self._lingering = LingeringClose(self._pending_bytes(), time.monotonic())
        self.expect(STALL_SECONDS)
        self._transport.close()

    def _extend_or_abort(self, seconds: float) -> None:
        if seconds:
            self.expect(seconds)
        else:
            self._abort()

    def _pending_bytes(self) -> int:
        """Return how many bytes the client has not read, nor its system for it."""
        connected = self._socket()
        return self.unsent + unsent_bytes(connected) if connected is not None else 0

    def _socket(self) -> Any:
        """Return the connection's socket, as far as event loops show it; None if it is closed."""
        connected = self._transport.get_extra_info("socket") if self._transport is not None else None
        return connected if connected is not None and connected.fileno() >= 0 else None

    def _resume_reading(self) -> None:
        self._manager.paused.discard(self)
        super()._resume_reading()
