"""One request to an upstream and its response, passed on piece by piece, with both sides holding each other up."""

import math
import time
from contextlib import AbstractContextManager
from typing import Protocol

import structlog

from ostiary import Verifier
from ostiary.errors import OstiaryError
from ostiary.http import Problem, grace_of
from ostiary_chassis.problems import body_too_large
from ostiary_chassis.proxies import source_of
from ostiary_gateway.access.admission import Admission
from ostiary_gateway.access.cors import CORS_PREFIX
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1 import headers, websocket
from ostiary_gateway.http1.body import Body, ContentLengthBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.http1.serializer import CONTINUE, chunk, last_chunk, lines, status_line
from ostiary_gateway.proxy.request_head import request_head
from ostiary_gateway.routing.config import Route
from ostiary_gateway.upstream.cluster import Upstream
from ostiary_gateway.upstream.pool import SWITCHING_PROTOCOLS, Failure, Pool, UpstreamConnection

_log = structlog.stdlib.get_logger("proxy")

#: Seconds for which nobody need say anything on a WebSocket whose route does not say: longer than others' pings take.
TALK_SECONDS = 3600.0

#: Seconds for a frame to end when a WebSocket is to.
FRAME_SECONDS = 1.0

#: Methods that may be sent once more if nobody knows whether the first request arrived (RFC 9110 section 9.2).
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_IDEMPOTENT = _SAFE | {"PUT", "DELETE"}

_UNAVAILABLE = Problem(
    503,
    "upstream_unavailable",
    "The service behind this path cannot be reached at the moment; try again shortly.",
    {"Retry-After": "1"},
)
_FAILED = Problem(
    502, "upstream_failed", "The service behind this path broke off; the request may or may not have had effect."
)
_TIMEOUT = Problem(
    504, "upstream_timeout", "The service behind this path did not answer in time; the request may have had effect."
)
_PROBLEMS = {
    Failure.UNREACHABLE: _UNAVAILABLE,
    Failure.OVERLOADED: _UNAVAILABLE,
    Failure.SLOW: _TIMEOUT,
}
_TOKEN_ENDED = Problem(401, "token_ended", "The access token is not good any more; log in again.")


class Client(Protocol):
    """The other side of an exchange."""

    is_http11: bool
    is_writable: bool

    @property
    def is_ending(self) -> bool:
        """Whether no more requests are taken."""

    @property
    def date(self) -> bytes:
        """The present, as fields have it."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def read_more(self, more: bool) -> None:
        """Read on, or not for now."""

    def expect(self, seconds: float) -> None:
        """Have `on_timeout` called if nothing happens for so long, or when the exchange must be over."""

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""

    def break_off(self) -> None:
        """Close the connection within a response: nothing else tells the client that it is not all there."""

    def finished(self) -> None:
        """Go on with the next request."""


class Exchange:
    """A request that has been let in. A Receiver of upstream connections."""

    __slots__ = (
        "_admission",
        "_arrival",
        "_asked",
        "_client",
        "_connection",
        "_ends_with",
        "_frames",
        "_has_no_content",
        "_head",
        "_is_chunked",
        "_is_over",
        "_is_waiting",
        "_received",
        "_response",
        "_route",
        "_sent_at",
        "_tries",
        "_upstream",
        "_verifier",
        "_watch",
        "client",
        "ends_at",
        "is_sent",
        "is_tunnel",
        "keep_alive",
        "status",
        "takes_body",
        "upstream_seconds",
    )

    def __init__(
        self, client: Client, context: RequestContext, admission: Admission, verifier: Verifier, upstream: Upstream
    ) -> None:
        """Make the exchange of a request that `gate` has admitted."""
        assert context.route is not None  # noqa: S101 - admitted
        self._client = client
        self._arrival = context
        self._admission = admission
        self._verifier = verifier
        self._upstream = upstream
        self._route: Route = context.route
        #: On whose behalf connections are asked for.
        self.client = source_of(context.client)
        self._connection: UpstreamConnection | None = None
        #: Who was asked for one, and whether it is still to come.
        self._asked: Pool | None = None
        self._is_waiting = False
        #: What waits to be written with what comes next.
        self._head = b""
        self._response: Response | None = None
        self._is_chunked = False
        self._is_over = False
        self._tries = 0
        total = self._route.timeouts.total
        #: When all of it must be over, on the monotonic clock.
        self.ends_at = math.inf if total is None else time.monotonic() + total
        self._received = 0
        self._watch: AbstractContextManager[object] | None = None
        #: Whether the whole request has been sent.
        self.is_sent = self._has_no_content = context.request.body is None or context.request.body.done
        self.takes_body = False
        #: Whether both sides talk WebSocket, where the upstream's frames are, and what they end with.
        self.is_tunnel = False
        self._frames: websocket.Frames | None = None
        self._ends_with = b""
        self.status = 0
        self._sent_at = 0.0
        #: From the request's head to the response's.
        self.upstream_seconds = 0.0
        self.keep_alive = context.request.keep_alive

    @property
    def body(self) -> Body | None:
        """The request's body."""
        return self._arrival.request.body

    def start(self) -> None:
        """Ask for a connection."""
        self._lease(None)
        if self._connection is None and not self._is_over:
            self._expect(self._route.timeouts.connect)

    def _lease(self, after: Pool | None) -> None:
        asked = self._asked = self._upstream.choose(after)
        if asked is None:
            self.on_failure(Failure.OVERLOADED)
        else:
            self._is_waiting = True
            asked.lease(self, self._route.timeouts.connect, new=after is not None)

    # From the client.

    def on_body(self, content: bytes) -> None:
        """Pass a part of the request's body on."""
        self._received += len(content)
        limit = self._route.limits.body_bytes
        if self._received > limit:
            self.give_up(body_too_large(limit))
        elif self._connection is not None:
            sized = isinstance(self._arrival.request.body, ContentLengthBody)
            self._connection.write(content if sized else chunk(content))

    def on_body_end(self, trailers: Fields) -> None:
        """Pass the end of the request's body on."""
        self.is_sent = True
        if self._connection is not None:
            if not isinstance(self._arrival.request.body, ContentLengthBody):
                self._connection.write(
                    last_chunk(headers.trailers_to_upstream(trailers, self._admission.routing_headers))
                )
            self._connection.is_request_sent = True
        # The body's own time is over.
        timeouts = self._route.timeouts
        self._expect(timeouts.first_byte if self._response is None else timeouts.idle)

    def on_client_writable(self, writable: bool) -> None:
        """Hold the response up, or let it come."""
        if self._connection is not None:
            if writable:
                self._connection.resume()
                if self.is_tunnel:
                    self._expect_talk()
                else:
                    self._expect(self._route.timeouts.idle)
            else:
                self._connection.pause()

    def on_client_lost(self) -> None:
        """Give up: nobody is there to be answered."""
        self._close()

    def on_timeout(self) -> None:
        """Give up on an upstream that does not answer."""
        if self._connection is None:
            self._stop_waiting()
            self.on_failure(Failure.UNREACHABLE)
        elif self._response is None:
            self._connection.fail(Failure.SLOW)
        else:
            self.on_failure(Failure.SLOW)

    # From the upstream.

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request."""
        self._is_waiting = False
        context = self._arrival
        self._connection = connection
        connection.use(self, context.request.method, is_sent=self.is_sent)
        if not self._client.is_writable:
            connection.pause()
        self._expect(self._route.timeouts.first_byte)
        self._sent_at = time.monotonic()
        position = self._verifier.position(context.token) if context.token is not None else None
        connection.write(request_head(context, connection.host, position))
        if not self.is_sent:
            self.takes_body = True
            if context.request.expects_continue:
                self._client.write(CONTINUE)
            if connection.is_writable:
                self._client.read_more(True)

    def on_writable(self, writable: bool) -> None:
        """Hold the request's body up, or let it come."""
        # When all has been sent, it is read so that it is noticed if the client leaves.
        if writable or not self.is_sent or self.is_tunnel:
            self._client.read_more(writable)
        if self.is_tunnel:
            self._expect_talk()
        elif not writable:
            self._expect(self._route.timeouts.idle)

    def on_head(self, response: Response) -> None:
        """Pass a head on."""
        if response.status == SWITCHING_PROTOCOLS:
            self._open_tunnel(response)
            return
        if not response.is_final:
            if response.status != 100 and self._client.is_http11:  # noqa: PLR2004 - we have said that ourselves
                self._client.write(self._interim(response))
            return
        retries = self._route.retries
        if retries is not None and response.status in retries.statuses and self._tries_again():
            return
        self._response = response
        self._note_answer()
        self.status = response.status
        if not self.is_sent:
            # The rest of the body is not wanted by anybody.
            self.keep_alive = False
        self._head = self._final_head(response)

    def _note_answer(self) -> None:
        self.upstream_seconds = time.monotonic() - self._sent_at
        self._upstream.answers.note(self.upstream_seconds)

    def on_content(self, content: bytes) -> None:
        """Pass a part of the body on."""
        if self._is_chunked:
            content = chunk(content)
        head, self._head = self._head, b""
        self._client.write(head + content if head else content)

    def on_pause(self) -> None:
        """Let the client have what has come, and see from now on whether the token goes on to be good."""
        if self._head:
            head, self._head = self._head, b""
            self._client.write(head)
        response = self._response
        if response is None or self.is_tunnel:
            return
        self._expect(self._route.timeouts.idle)
        if self._watch is None:
            self._watch_token(grace_of(response.by_name.get(b"content-type", b"").decode("latin-1")))

    def _watch_token(self, grace: float) -> None:
        token = self._arrival.token
        if token is not None:
            self._watch = self._verifier.watch(
                token, self._on_token_end, max_staleness=self._route.staleness_limit, grace=grace
            )
            self._watch.__enter__()

    def on_end(self, trailers: Fields) -> None:
        """End the response."""
        if self._is_chunked:
            self._head += last_chunk(headers.trailers_to_client(trailers))
        if self._head:
            self._client.write(self._head)
        self._connection = None
        self._close()
        self._client.finished()

    def _open_tunnel(self, response: Response) -> None:
        """Let the upstream and the client talk WebSocket."""
        if not self._arrival.is_websocket or not websocket.is_opened(response):
            self.on_failure(Failure.INVALID)
            return
        self._response, self.status, self._frames = response, response.status, websocket.Frames()
        self._note_answer()
        passed = headers.lines_of_response(response)
        self._client.write(
            b"%b%bx-request-id: %b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            % (status_line(response.status), passed, self._arrival.request_id)
        )
        self.keep_alive = False
        self._watch_token(grace=0.0)
        if not self._is_over:
            self.is_tunnel = True
            self._client.read_more(True)
            self._expect_talk()

    def _expect_talk(self) -> None:
        timeouts = self._route.timeouts
        self._expect(timeouts.idle if "idle" in timeouts.model_fields_set else TALK_SECONDS)

    def on_tunnel(self, data: bytes) -> None:
        """Pass bytes of the upstream's frames on."""
        assert self._frames is not None  # noqa: S101 - opened
        if self._ends_with:
            # Only to the end of the frame.
            self._client.write(data[: self._frames.follow(data, to_the_next_end=True)])
            if self._frames.at_boundary:
                self._close_tunnel()
            return
        self._frames.follow(data)
        self._client.write(data)
        self._expect_talk()

    def on_talk(self, data: bytes) -> None:
        """Pass bytes of the client's frames on."""
        if self._connection is not None and not self._ends_with:
            self._connection.write(data)
            self._expect_talk()

    def _close_tunnel(self) -> None:
        self._client.write(self._ends_with)
        self._close()
        self._client.finished()

    def on_failure(self, failure: Failure) -> None:
        """Try once more if that is safe, or give up."""
        self._is_waiting = False
        if self._is_over:
            return
        self._upstream.failures[failure] += 1
        if self._tries_again(failure):
            return
        self._connection_lost()
        if failure is not Failure.OVERLOADED:
            # Of those there are many, and the access log has them.
            _log.warning("upstream failed", upstream=self._upstream.name, route=self._route.name, error=failure.value)
        self.give_up(_PROBLEMS.get(failure, _FAILED))

    def _tries_again(self, failure: Failure | None = None) -> bool:
        """Ask for another connection if a request may be sent once more, and say whether it is."""
        request, retries = self._arrival.request, self._route.retries
        if not self._has_no_content or request.method not in _IDEMPOTENT or self._response is not None:
            return False
        if time.monotonic() >= self.ends_at:
            return False
        # That a connection was closed that had been used before is the rule, and no sign of trouble.
        is_stale = failure is Failure.STALE and self._tries == 0 and request.method in _SAFE
        if not is_stale and (retries is None or self._tries >= retries.attempts or not self._upstream.may_retry()):
            return False
        self._tries += 1
        self._connection_lost()
        self._stop_waiting()
        self._expect(self._route.timeouts.connect)
        self._lease(self._asked)
        return True

    def _stop_waiting(self) -> None:
        if self._is_waiting and self._asked is not None:
            self._asked.leave(self)
        self._is_waiting = False

    def _expect(self, seconds: float) -> None:
        # A client that does not take what it gets is waited for, and not the upstream.
        if self._client.is_writable:
            self._client.expect(seconds)

    def give_up(self, problem: Problem) -> None:
        """End the exchange with a problem, or in the middle of a response."""
        if self._is_over:
            return
        is_begun = self._response is not None and not self._head
        self._close()
        if is_begun:
            self._client.break_off()
        else:
            self.status = problem.status
            if not self.is_sent:
                self.keep_alive = False
            self._client.refuse(problem)

    def _on_token_end(self, error: OstiaryError) -> None:
        _log.info("response broken off", route=self._route.name, reason=error.code)
        if self._frames is None:
            self.give_up(_TOKEN_ENDED)
        else:
            self.end_tunnel(websocket.TOKEN_ENDED, error.code)

    def end_tunnel(self, code: int, reason: str) -> None:
        """Have both sides talk no more, as soon as no frame is under way; in any case very soon."""
        if self._frames is None or self._ends_with:
            return
        self._ends_with = websocket.close_frame(code, reason)
        if self._frames.at_boundary:
            self._close_tunnel()
        else:
            self.ends_at = min(self.ends_at, time.monotonic() + FRAME_SECONDS)
            self._expect(FRAME_SECONDS)

    def _connection_lost(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _close(self) -> None:
        self._is_over = True
        self._connection_lost()
        self._stop_waiting()
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.__exit__(None, None, None)

    def _interim(self, response: Response) -> bytes:
        passed = headers.lines_of_response(response)
        return b"%b%b\r\n" % (status_line(response.status), passed)

    def _final_head(self, response: Response) -> bytes:
        cors = self._arrival.cors
        if cors:
            others = [field for field in response.fields if not field[0].startswith(CORS_PREFIX)]
            passed = headers.to_client(others, response.connection_options) + lines(cors)
        else:
            passed = headers.lines_of_response(response)
        length = b""
        if isinstance(response.body, ContentLengthBody):
            announced = response.by_name.get(b"content-length")
            if announced is not None and response.may_have_length:
                length = b"content-length: %d\r\n" % int(announced)
        elif self._client.is_http11:
            self._is_chunked = True
            length = b"transfer-encoding: chunked\r\n"
        else:
            # HTTP/1.0 knows no chunks: the connection's end is the body's.
            self.keep_alive = False
        if b"date" not in response.by_name:
            # RFC 9110 section 6.6.1.
            passed += b"date: %b\r\n" % self._client.date
        if self._client.is_ending:
            self.keep_alive = False
        if not self.keep_alive:
            connection = b"connection: close\r\n"
        else:
            connection = b"" if self._client.is_http11 else b"connection: keep-alive\r\n"
        return b"%b%bx-request-id: %b\r\n%b%b\r\n" % (
            status_line(response.status),
            passed,
            self._arrival.request_id,
            length,
            connection,
        )
