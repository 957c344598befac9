"""uvicorn's HTTP/1.1 protocol, with the limits that it lacks on what stands before a body and after it."""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ostiary.http import PROBLEM_JSON, Problem

#: Bytes of a request line, its header and its trailers together; other servers take 8 to 64 KiB.
MAX_HEAD_BYTES = 64 * 1024

#: Bytes of a field beside its name and value: colon, space and line end.
FIELD_BYTES = 4

#: Bytes that may be waiting unparsed beyond that: one read from the socket.
_ONE_READ = 256 * 1024

#: Seconds for a head to arrive, from the connection or from its first byte.
HEAD_SECONDS = 20.0

_INVALID = Problem(400, "invalid_request", "The request is not valid HTTP/1.1.")
_TOO_LARGE = Problem(431, "head_too_large", f"Request line and header fields may have {MAX_HEAD_BYTES} bytes.")
_TOO_SLOW = Problem(408, "head_timeout", "The request did not arrive in time.")


class _HeadTooLarge(Exception):
    """More bytes before or after a body than are taken."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses heads that are too large or too slow, forgets trailers, and answers with problem documents."""

    _in_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
        """Expect the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and give up on a field that does not end."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES + _ONE_READ:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field. A trailer field is forgotten: it must not become one (RFC 9110 section 6.5.1)."""
        self._count(len(name) + len(value) + FIELD_BYTES)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End a head."""
        self._in_head = False
        self._expect_nothing()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the base's signature
        """Answer what could not be parsed."""
        self._refuse(_TOO_LARGE if self._head_bytes > MAX_HEAD_BYTES else _INVALID)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _expect_head(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._refuse, _TOO_SLOW)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, problem: Problem) -> None:
        """Answer and close; within another answer, only close."""
        self._expect_nothing()
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
