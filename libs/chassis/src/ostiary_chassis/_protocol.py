"""uvicorn's HTTP/1.1 protocol, with the limits that it lacks on heads and trailers."""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ostiary.http import PROBLEM_JSON, Problem

#: Bytes of request line, header and trailers together; other servers accept 8 to 64 KiB.
MAX_HEAD_BYTES = 64 * 1024

#: Bytes of a field in addition to its name and value: colon, space and line end.
FIELD_BYTES = 4

#: Bytes that may be unparsed beyond that: one read from the socket.
_ONE_READ = 256 * 1024

#: Seconds for a head to arrive, from the connection or from its first byte.
HEAD_SECONDS = 20.0

_INVALID = Problem(400, "invalid_request", "The request is not valid HTTP/1.1.")
_TOO_LARGE = Problem(
    431,
    "head_too_large",
    f"Request line and header fields exceed {MAX_HEAD_BYTES} bytes; send fewer or shorter fields.",
)
_TOO_SLOW = Problem(408, "head_timeout", "The request did not arrive in time.")


class _HeadTooLarge(Exception):
    """Head and trailers exceed their limit."""


class BoundedProtocol(HttpToolsProtocol):
    """Rejects heads that are too large or too slow with a problem document, and drops trailers."""

    _in_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and reject a field without an end."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES + _ONE_READ:
                self._reject(_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field, and drop a trailer field, which must not be merged (RFC 9110 section 6.5.1)."""
        self._count(len(name) + len(value) + FIELD_BYTES)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the base's signature
        self._reject(_TOO_LARGE if self._head_bytes > MAX_HEAD_BYTES else _INVALID)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _start_timer(self) -> None:
        self._stop_timer()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._reject, _TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _reject(self, problem: Problem) -> None:
        """Respond and close; within another response, only close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request, whatever its type says
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()
            return
        body = problem.to_json()
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"Content-Type: {PROBLEM_JSON}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
