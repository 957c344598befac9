"""One admitted request and its response, relayed piece by piece, with backpressure in both directions.

    CONNECTING -- connection --> AWAITING_RESPONSE -- final head --> RELAYING -----> ENDED
    ^ |     |                       |     |                             |              ^
    | +-----|--- other endpoint     |     +-- 101 --> TUNNEL -----------|------------->|
    +-------|--- retry -------------+                    |              |              |
            +-- failure, timeout, client gone, token ended -------------+--------------+

A request may wait for its connection: in a queue, while it is dialled, or for a retry. Then its token is verified again
before its head is sent. If it is no longer good, nothing is sent, and the request is decided anew.

The request has states of its own: content is not read before there is a connection to send it on.

    HELD -- connection --> SENDING -- all content written --> SENT
      ^                       |
      +-------- retry --------+
"""

import math
import time
from contextlib import AbstractContextManager
from typing import Final, Protocol

import structlog

from ostiary import Verifier
from ostiary.errors import OstiaryError
from ostiary.http import Problem, grace_of
from ostiary_chassis.problems import body_too_large
from ostiary_chassis.proxies import source_of
from ostiary_gateway.access.authentication import is_still_good
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1 import headers, websocket
from ostiary_gateway.http1.body import Body, ContentLengthBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.methods import IDEMPOTENT
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.http1.serializer import CONTINUE, chunk, last_chunk
from ostiary_gateway.proxy import tunnel
from ostiary_gateway.proxy.own_urls import has_url, with_public_urls
from ostiary_gateway.proxy.problems import TOKEN_ENDED, problem_of_failure
from ostiary_gateway.proxy.request_head import request_head
from ostiary_gateway.proxy.response_head import final_head, interim_head, upgrade_head
from ostiary_gateway.proxy.retry import may_retry
from ostiary_gateway.proxy.streams import is_stream
from ostiary_gateway.proxy.tunnel import Tunnel
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.state import State
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.connection import SWITCHING_PROTOCOLS, Failure, UpstreamConnection
from ostiary_gateway.upstream.pool import Pool

CONNECTING: Final = State("connecting")
AWAITING_RESPONSE: Final = State("awaiting response")
RELAYING: Final = State("relaying")
TUNNEL: Final = State("tunnel")
ENDED: Final = State("ended")
CONNECTING.leads_to(CONNECTING, AWAITING_RESPONSE, ENDED)
AWAITING_RESPONSE.leads_to(CONNECTING, RELAYING, TUNNEL, ENDED)
RELAYING.leads_to(ENDED)
TUNNEL.leads_to(ENDED)

HELD: Final = State("held")
SENDING: Final = State("sending")
SENT: Final = State("sent")
HELD.leads_to(SENDING)
SENDING.leads_to(SENT, HELD)

#: Bytes of an idempotent request's content that are kept until there is a response, to be sent again if there is none.
MAX_KEPT_BYTES = 64 * 1024

_CONTINUE_STATUS = 100

_log = structlog.stdlib.get_logger("proxy")


class Client(Protocol):
    """The other side of an exchange."""

    is_http11: bool
    is_writable: bool

    @property
    def is_draining(self) -> bool:
        """Whether the connection is closed after the response."""

    @property
    def is_stopping(self) -> bool:
        """Whether the gateway waits for this response to end."""

    @property
    def date(self) -> bytes:
        """The value of the `Date` field."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def pause_input(self) -> None:
        """Stop reading from the client."""

    def resume_input(self) -> None:
        """Read content, or bytes of a tunnel."""

    def expect(self, seconds: float) -> None:
        """Have `on_timeout` called if nothing happens for so long, or at `ends_at`."""

    def enter_tunnel(self) -> None:
        """Pass on what the client sends as it is."""

    def reject(self, problem: Problem) -> None:
        """Respond with a problem."""

    def admit_again(self) -> None:
        """Decide about the request anew. This exchange has ended."""

    def abort_response(self) -> None:
        """Close the connection within a response: nothing else tells the client that it is incomplete."""

    def end_exchange(self) -> None:
        """Go on with the next request."""


class Exchange:
    """A request on its way to an upstream and back; the module's head draws its states. A ResponseHandler."""

    __slots__ = (
        "_client",
        "_cluster",
        "_connection",
        "_context",
        "_has_content",
        "_has_waited",
        "_idle_seconds",
        "_is_chunked",
        "_is_stream",
        "_kept",
        "_lease",
        "_pending_head",
        "_received",
        "_request_state",
        "_response",
        "_retries",
        "_route",
        "_rules",
        "_sent_at",
        "_state",
        "_table",
        "_trailers",
        "_tried",
        "_tunnel",
        "_verifier",
        "_watch",
        "caller",
        "ends_at",
        "is_repeatable",
        "keep_alive",
        "status",
        "upstream_seconds",
    )

    def __init__(
        self, client: Client, context: RequestContext, table: RouteTable, verifier: Verifier, cluster: Cluster
    ) -> None:
        assert context.route is not None  # noqa: S101 - admitted
        assert context.rules is not None  # noqa: S101 - the same
        self._client = client
        self._context = context
        self._table = table
        self._verifier = verifier
        self._cluster = cluster
        self._route = context.route
        self._rules = context.rules
        self._state: State = CONNECTING
        #: For fair shares of the connections.
        self.caller = source_of(context.client)
        #: The pools that were asked for a connection; and the last of them while it owes one.
        self._tried: tuple[Pool, ...] = ()
        self._lease: Pool | None = None
        self._connection: UpstreamConnection | None = None
        self._retries = 0
        #: Whether time has passed since the token was verified.
        self._has_waited = False
        body = context.request.body
        self._has_content = body is not None and not body.done
        self._request_state: State = HELD if self._has_content else SENT
        #: Content may turn out to be more than is kept.
        self.is_repeatable = not self._has_content and context.request.method in IDEMPOTENT
        #: Bytes of content received.
        self._received = 0
        #: Content sent, as far as it can be sent again; None if it can't.
        self._kept: list[bytes] | None = None
        self._trailers: Fields = []
        self._response: Response | None = None
        self._is_chunked = False
        #: The response's head, until it is sent with the first content.
        self._pending_head = b""
        self._tunnel: Tunnel | None = None
        self._watch: AbstractContextManager[object] | None = None
        #: Whether the response goes on until somebody ends it; and how long it may be silent, in seconds.
        self._is_stream = False
        self._idle_seconds = self._rules.idle
        total = self._rules.total
        #: When all of it has to be over, on the monotonic clock.
        self.ends_at = math.inf if total is None else time.monotonic() + total
        self.status = 0
        self._sent_at = 0.0
        #: From sending the request's head to the response's.
        self.upstream_seconds = 0.0
        self.keep_alive = context.request.keep_alive

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)

    @property
    def body(self) -> Body | None:
        """The request's body."""
        return self._context.request.body

    @property
    def is_request_sent(self) -> bool:
        """Whether the whole request has been sent."""
        return self._request_state is SENT

    @property
    def accepts_content(self) -> bool:
        """Whether there is a connection on which content can be sent."""
        return self._request_state is SENDING

    def start(self) -> None:
        """Ask for a connection."""
        self._connect()
        self._has_waited = True
        if self._state is CONNECTING:
            self._expect(self._rules.connect)

    def _connect(self) -> None:
        pool = self._lease = self._cluster.choose(self._tried)
        if pool is None:
            self.on_failure(Failure.OVERLOADED)
        else:
            self._tried += (pool,)
            pool.lease(self, self._rules.connect, new=self._retries > 0)

    # Called by the client's connection.

    def on_content_received(self, content: bytes) -> None:
        """Pass a part of the request's content on."""
        self._received += len(content)
        limit = self._rules.body_bytes
        if self._received > limit:
            self.give_up(body_too_large(limit))
        elif self._connection is not None:
            if self._kept is not None:
                self._keep(self._kept, content)
            self._write_content(self._connection, content)

    def _keep(self, kept: list[bytes], content: bytes) -> None:
        if self._received > MAX_KEPT_BYTES:
            self._kept = None
        else:
            kept.append(content)

    def _write_content(self, connection: UpstreamConnection, content: bytes) -> None:
        is_sized = isinstance(self._context.request.body, ContentLengthBody)
        connection.write(content if is_sized else chunk(content))

    def _write_end(self, connection: UpstreamConnection) -> None:
        if not isinstance(self._context.request.body, ContentLengthBody):
            connection.write(last_chunk(self._rules.filter.trailers(self._trailers)))
        connection.end_request()

    def on_request_end(self, trailers: Fields) -> None:
        """Pass the end of the request's content on."""
        self._request_state = self._request_state.to(SENT)
        self._trailers = trailers
        if self._connection is not None:
            self._write_end(self._connection)
        is_awaiting = self._state is AWAITING_RESPONSE
        self._expect(self._rules.first_byte if is_awaiting else self._idle_seconds)

    def on_tunnel_data(self, data: bytes) -> None:
        """Pass bytes of the client's frames on."""
        if self._connection is not None and self._tunnel is not None and self._tunnel.is_open:
            self._tunnel.send(data)
            self._connection.write(data)
            self._expect(self._idle_seconds)

    def on_client_writable(self, writable: bool) -> None:
        """Pause the response, or resume it."""
        if self._connection is None:
            return
        if not writable:
            self._connection.pause()
            return
        self._connection.resume()
        self._expect(self._idle_seconds)

    def on_client_lost(self) -> None:
        """Give up: the client has gone."""
        self._end()

    def on_timeout(self) -> None:
        """Give up on an upstream that does not respond, or end a stream on which nothing happens."""
        if self._state is CONNECTING:
            self._cancel_lease()
            self.on_failure(Failure.UNREACHABLE)
        elif self._state is AWAITING_RESPONSE and self._connection is not None:
            self._connection.fail(Failure.SLOW)
        elif self._tunnel is not None and self._tunnel.is_open:
            self.close_tunnel(websocket.GOING_AWAY, "idle" if time.monotonic() < self.ends_at else "time is up")
        elif self._is_stream:
            # Silence, or that a frame does not end, is nothing that the upstream failed to do.
            self.give_up(problem_of_failure(Failure.SLOW))
        else:
            self.on_failure(Failure.SLOW)

    def on_shutdown(self) -> None:
        """End what would not end by itself, and let the rest complete: the gateway shuts down."""
        if self._state is TUNNEL:
            self.close_tunnel(websocket.GOING_AWAY, "going away")
        elif self._state is RELAYING and self._is_event_stream:
            # An event that is incomplete counts for nothing (HTML Standard, section 9.2.6), and the client reconnects.
            self._drop_connection()
            self.on_end([])

    def close_tunnel(self, code: int, reason: str) -> None:
        """Close the WebSocket when no frame is under way, and very soon in any case."""
        if self._tunnel is None or not self._tunnel.is_open:
            return
        frame = self._tunnel.close(code, reason)
        if self._tunnel.is_closed:
            self._client.write(frame)
            self._end_tunnel()
        else:
            self.ends_at = min(self.ends_at, time.monotonic() + tunnel.CLOSE_SECONDS)
            self._expect(tunnel.CLOSE_SECONDS)

    def give_up(self, problem: Problem) -> None:
        """End with a problem, or within a response."""
        if self._state is ENDED:
            return
        is_response_begun = self._state is TUNNEL or (self._state is RELAYING and not self._pending_head)
        self._end()
        if is_response_begun:
            self._client.abort_response()
        else:
            self.status = problem.status
            if not self.is_request_sent:
                self.keep_alive = False
            self._client.reject(problem)

    # Called by the pool and the upstream's connection.

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request."""
        self._lease = None
        context = self._context
        if self._has_waited and not is_still_good(self._verifier, context):
            connection.give_back()
            self._decide_anew()
            return
        self._enter(AWAITING_RESPONSE)
        self._connection = connection
        if not self._client.is_writable:
            connection.pause()
        self._expect(self._rules.first_byte)
        self._sent_at = time.monotonic()
        head = request_head(context, self._rules.filter, self._cluster.host_for(context.host, connection.host))
        connection.send_request(self, context.request.method, head, has_content=self._has_content)
        if self._has_content:
            self._begin_content(connection)

    def _decide_anew(self) -> None:
        """Have the request admitted by another token of its session, or rejected."""
        if self._has_content and self._retries:
            # What was received of the content is gone. The request has failed once, and that is the answer.
            self.give_up(problem_of_failure(Failure.BROKEN))
        else:
            self._end()
            self._client.admit_again()

    def _begin_content(self, connection: UpstreamConnection) -> None:
        """Send the content that has been sent before, and ask for more."""
        if self._kept is None and self._received == 0 and self._context.request.method in IDEMPOTENT:
            self._kept = []
        for content in self._kept or ():
            self._write_content(connection, content)
        if self._request_state is SENT:
            self._write_end(connection)
            return
        self._request_state = self._request_state.to(SENDING)
        if self._context.request.expects_continue and not self._retries:
            self._client.write(CONTINUE)
        if connection.is_writable:
            self._client.resume_input()

    def on_writable(self, writable: bool) -> None:
        """Pause the request's content, or resume it."""
        if writable:
            self._client.resume_input()
        elif self._state is TUNNEL or not self.is_request_sent:
            self._client.pause_input()
        # A request that has been sent leaves the client's input open, so that its close is noticed.
        if self._state is TUNNEL or not writable:
            self._expect(self._idle_seconds)

    def on_head(self, response: Response) -> None:
        """Pass a head on."""
        if response.status == SWITCHING_PROTOCOLS:
            self._open_tunnel(response)
            return
        if not response.is_final:
            # A 100 has been sent by the gateway itself; HTTP/1.0 has no interim responses.
            if response.status != _CONTINUE_STATUS and self._client.is_http11:
                self._client.write(interim_head(self._context, response))
            return
        self._kept = None
        retries = self._route.retries
        if retries is not None and response.status in retries.statuses and self._retry(None):
            return
        self._enter(RELAYING)
        if is_stream(response):
            self._begin_stream()
        self._accept(response)
        self._pending_head = self._final_head(response)

    def on_content(self, content: bytes) -> None:
        """Pass a part of the response's content on."""
        if self._is_chunked:
            content = chunk(content)
        head, self._pending_head = self._pending_head, b""
        self._client.write(head + content if head else content)

    def on_read_complete(self) -> None:
        """Send what has arrived, and watch the token from now on: the response takes longer than a moment."""
        if self._state is not RELAYING:
            return
        if self._pending_head:
            head, self._pending_head = self._pending_head, b""
            self._client.write(head)
        self._expect(self._idle_seconds)
        if self._watch is None and self._response is not None:
            content_type = self._response.by_name.get(b"content-type", b"")
            self._watch_token(grace_of(content_type.decode("latin-1")))
        if self._is_stream and self._client.is_stopping:
            self.on_shutdown()

    def on_end(self, trailers: Fields) -> None:
        """End the response, or the tunnel."""
        if self._is_chunked:
            self._pending_head += last_chunk(headers.trailers_to_client(trailers))
        if self._pending_head:
            self._client.write(self._pending_head)
        self._connection = None
        self._end()
        self._client.end_exchange()

    def on_tunnel(self, data: bytes) -> None:
        """Pass bytes of the upstream's frames on."""
        if self._tunnel is None:
            return
        self._client.write(self._tunnel.receive(data))
        if self._tunnel.is_closed:
            self._end_tunnel()
        elif self._tunnel.is_open:
            self._expect(self._idle_seconds)

    def on_failure(self, failure: Failure) -> None:
        """Retry if that is safe, or give up."""
        self._lease = None
        if self._state is ENDED:
            return
        self._cluster.failures[failure] += 1
        if self._fail_over(failure) or self._retry(failure):
            return
        self._drop_connection()
        if failure is not Failure.OVERLOADED:
            # Of those there are many, and the access log has them.
            _log.warning("upstream failed", upstream=self._cluster.name, route=self._route.name, error=failure.value)
        self.give_up(problem_of_failure(failure))

    # Steps.

    @property
    def _is_event_stream(self) -> bool:
        """Whether the response ends when its connection does, and its events are complete or count for nothing."""
        response = self._response
        if response is None or isinstance(response.body, ContentLengthBody):
            return False
        return grace_of(response.by_name.get(b"content-type", b"").decode("latin-1")) == 0.0

    def _accept(self, response: Response) -> None:
        self._response = response
        self.status = response.status
        self.upstream_seconds = time.monotonic() - self._sent_at
        self._cluster.response_seconds.note(self.upstream_seconds)

    def _begin_stream(self) -> None:
        self._is_stream = True
        self._idle_seconds = self._rules.stream_idle

    def _final_head(self, response: Response) -> bytes:
        client = self._client
        if not isinstance(response.body, ContentLengthBody):
            if client.is_http11:
                self._is_chunked = True
            else:
                # HTTP/1.0 has no chunks: the end of the connection is that of the content.
                self.keep_alive = False
        if client.is_draining or not self.is_request_sent:
            # In the latter case nobody reads the rest of the content.
            self.keep_alive = False
        if has_url(response):
            response = with_public_urls(response, self._context, self._cluster, self._table)
        return final_head(
            self._context,
            response,
            client.date,
            is_chunked=self._is_chunked,
            keep_alive=self.keep_alive,
            is_http11=client.is_http11,
        )

    def _fail_over(self, failure: Failure) -> bool:
        """Go to another endpoint if nothing has been sent; return whether that has begun."""
        if failure is not Failure.UNREACHABLE or self._state is not CONNECTING or time.monotonic() >= self.ends_at:
            return False
        if not self._cluster.has_others(self._tried):
            return False
        self._connect_again()
        return True

    def _retry(self, failure: Failure | None) -> bool:
        """Send the request again if it may be; return whether that has begun."""
        if not (self._state is CONNECTING or self._state is AWAITING_RESPONSE) or time.monotonic() >= self.ends_at:
            return False
        if self._has_content and self._kept is None:
            return False
        others = self._cluster.has_others(self._tried)
        if not may_retry(
            self._context.request, self._route.retries, self._retries, failure, self._cluster, others=others
        ):
            return False
        if failure is Failure.STALE:
            # That says nothing about the endpoint: it may have the request on a new connection.
            self._tried = self._tried[:-1]
        self._retries += 1
        self._cluster.retries += 1
        self._drop_connection()
        if self._request_state is SENDING:
            self._request_state = self._request_state.to(HELD)
        self._connect_again()
        return True

    def _connect_again(self) -> None:
        self._enter(CONNECTING)
        self._expect(self._rules.connect)
        self._connect()

    def _open_tunnel(self, response: Response) -> None:
        if not self._context.is_websocket or not websocket.is_accepted(response):
            self.on_failure(Failure.INVALID)
            return
        self._enter(TUNNEL)
        self._begin_stream()
        self._accept(response)
        self._tunnel = Tunnel()
        self.keep_alive = False
        self._client.write(upgrade_head(self._context, response))
        self._client.enter_tunnel()
        self._watch_token(grace=0.0)
        if self._state is TUNNEL:
            self._client.resume_input()
            self._expect(self._idle_seconds)
        if self._client.is_stopping:
            self.on_shutdown()

    def _end_tunnel(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._tunnel is not None:
            connection.close_with(self._tunnel.upstreams_close_frame())
        self._end()
        self._client.end_exchange()

    def _watch_token(self, grace: float) -> None:
        token = self._context.token
        if token is not None:
            self._watch = self._verifier.watch(
                token, self._on_token_end, max_staleness=self._context.max_staleness, grace=grace
            )
            self._watch.__enter__()

    def _on_token_end(self, error: OstiaryError) -> None:
        _log.info("response aborted", route=self._route.name, reason=error.code)
        if self._tunnel is None:
            self.give_up(TOKEN_ENDED)
        else:
            self.close_tunnel(websocket.TOKEN_ENDED, error.code)

    def _expect(self, seconds: float) -> None:
        # While the client does not read, it is the client that is waited for, and not the upstream.
        if self._client.is_writable:
            self._client.expect(seconds)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _cancel_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.cancel(self)

    def _end(self) -> None:
        self._cancel_lease()
        self._enter(ENDED)
        self._drop_connection()
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.__exit__(None, None, None)
