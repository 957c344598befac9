"""A request on its way through the gateway: its head, its origin, and what has been decided about it."""

import os
import re
from collections.abc import Sequence
from typing import Protocol

from ostiary import Presented, VerifiedToken
from ostiary.http import Problem
from ostiary_chassis.middleware import is_request_id
from ostiary_chassis.problems import ProblemError
from ostiary_gateway.http1 import headers
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.config import OWN_PATHS, Route

_INVALID_HOST = Problem(400, "invalid_host", "Send exactly one valid Host header field.")
_INVALID_TARGET = Problem(400, "invalid_target", "The target must be a path, or a URL with the host of the Host field.")

# RFC 9112 section 3.2.2, without user information.
_ABSOLUTE = re.compile(rb"https?://([^/?#@]*)(/[^#]*)\Z", re.IGNORECASE)
_OWN_PATHS = frozenset(path.encode() for path in OWN_PATHS)


class Trace(Protocol):
    """What follows a request for a tracing system."""

    @property
    def fields(self) -> Fields:
        """What goes on to the upstream, in place of the caller's own fields with these names."""

    def end(self, attributes: dict[str, str | int | float]) -> None:
        """Note what has come of the request."""


class RequestContext:
    """A request as it came in: its head, who sent it, and what is known of it while it is looked at."""

    # No dataclass: there is one for each request, and what a dataclass makes is not compiled.
    def __init__(self, request: Request, client: str, scheme: bytes, request_id: bytes) -> None:
        """Nothing is known but who sent it."""
        self.request = request
        self.client = client
        self.scheme = scheme
        self.request_id = request_id
        #: The target's path, and all of it; and what the upstream gets instead, if that is something else.
        self.path = b""
        self.target = b""
        self.rewritten = b""
        self.host = b""
        #: Whether the gateway answers it itself.
        self.is_local = False
        self.presented: Presented | None = None
        self.route: Route | None = None
        self.token: VerifiedToken | None = None
        self.is_websocket = False
        #: Fields of the answer that are for browsers.
        self.cors: Sequence[tuple[bytes, bytes]] = ()
        #: None without a tracing system.
        self.trace: Trace | None = None

    def again(self, request_id: bytes) -> "RequestContext":
        """Return the context of the same head once more: with what it says by itself, and nothing that was decided."""
        context = RequestContext(self.request, self.client, self.scheme, request_id)
        context.path, context.target, context.host = self.path, self.target, self.host
        context.is_local, context.presented = self.is_local, self.presented
        return context


class RequestIds:
    """Names requests: with the process, and a number in it. Names are unique, and no secret."""

    def __init__(self) -> None:
        """Start with a name for the process."""
        self._process = os.urandom(8)
        self._number = 0

    def of(self, request: Request) -> bytes:
        """Return the request's own id if it has one that can be used, or a new one."""
        given = request.by_name.get(b"x-request-id")
        if given is not None and is_request_id(given):
            return given
        self._number += 1
        return (self._process + self._number.to_bytes(8, "big")).hex().encode()


def read_target(context: RequestContext) -> None:
    """Note host and path. Raises ProblemError."""
    request = context.request
    target, host = request.target, request.by_name.get(b"host")
    if host is None or not headers.is_host(host):
        raise ProblemError(_INVALID_HOST)
    if b"#" in target:
        # A fragment is never sent (RFC 9110 section 7.1); some would take what comes after it for something else.
        raise ProblemError(_INVALID_TARGET)
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None or absolute[1].lower() != host.lower():
            raise ProblemError(_INVALID_TARGET)
        target = absolute[2]
    context.host, context.target = host, target
    context.path = target.partition(b"?")[0]
    context.is_local = context.path in _OWN_PATHS
