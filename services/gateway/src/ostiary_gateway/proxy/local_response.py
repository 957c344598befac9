"""Responses of the gateway's own: problems, answers to OPTIONS and its endpoints."""

from typing import Protocol

from ostiary.http import PROBLEM_JSON, Problem
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.access.rules import VARIES
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.http1.serializer import head
from ostiary_gateway.http1.status import NO_CONTENT

#: Bytes written at once: a client need not read a large response.
PIECE_BYTES = 64 * 1024


class Writer(Protocol):
    """Where a response goes to."""

    is_writable: bool

    def write(self, data: bytes) -> None:
        """Send bytes."""


class LocalResponse:
    """The content of a response, written as the client reads it."""

    __slots__ = ("_content", "_written", "keep_alive")

    def __init__(self, content: bytes, *, keep_alive: bool) -> None:
        self._content = content
        self._written = 0
        self.keep_alive = keep_alive

    def write_to(self, client: Writer) -> bool:
        """Write as much as the client accepts; return whether that was all."""
        while self._written < len(self._content) and client.is_writable:
            client.write(self._content[self._written : self._written + PIECE_BYTES])
            self._written += PIECE_BYTES
        return self._written >= len(self._content)


def may_keep_alive(request: Request) -> bool:
    """Return whether another request can follow: what is left of a body would be taken for it."""
    return request.keep_alive and (request.body is None or request.body.done)


def local_head(request: Request, status: int, fields: Fields, size: int, date: bytes, *, keep_alive: bool) -> bytes:
    """Return the head of a response with `size` bytes of content; 204 has none (RFC 9110 section 8.6)."""
    more = [(b"date", date)]
    if status != NO_CONTENT:
        more.append((b"content-length", b"%d" % size))
    if not keep_alive:
        more.append((b"connection", b"close"))
    elif not request.is_http11:
        more.append((b"connection", b"keep-alive"))
    return head(status, [*fields, *more])


def problem_fields(problem: Problem, context: RequestContext) -> Fields:
    """Return the header fields of a problem response (RFC 9457)."""
    own = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in problem.headers.items()]
    # Of this request alone: a cache that keeps errors would give them to others.
    own.append((b"cache-control", b"no-store"))
    if context.rate_limit:
        own += [(b"ratelimit-policy", context.rate_limit_policy), (b"ratelimit", context.rate_limit)]
    if context.rules is not None and context.rules.cookie_rules & VARIES:
        own.append((b"vary", b"Cookie"))
    if context.renewed_cookie:
        own.append((b"set-cookie", context.renewed_cookie))
    fields = with_cors([(b"content-type", PROBLEM_JSON.encode()), *own], context)
    return [*fields, (b"x-request-id", context.request_id)]


def with_cors(fields: Fields, context: RequestContext) -> Fields:
    """Add the fields that let a page read the response."""
    return fields if context.cors is None else [*context.cors.merged(fields), *context.cors.own]
