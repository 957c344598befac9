"""The context of a request on its way through the gateway."""

import os
import re
from typing import Protocol

from ostiary import Presented, VerifiedToken
from ostiary.http import Problem
from ostiary_chassis.middleware import is_request_id
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.urls import DEFAULT_PORTS
from ostiary_gateway.access.cors import CorsFields
from ostiary_gateway.access.credentials import Credentials, Forwarding
from ostiary_gateway.access.destination import Destination
from ostiary_gateway.access.renewal import Renewal, Session
from ostiary_gateway.access.rules import RouteRules
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.hosts import InvalidHost, parse_authority
from ostiary_gateway.routing.paths import EncodedCharacter, InvalidPath, PathTooLong

INVALID_HOST = Problem(400, "invalid_host", "Send exactly one valid Host header field.")
# RFC 9110 section 15.5.20. It does not tell which hosts are configured.
UNKNOWN_HOST = Problem(
    421,
    "unknown_host",
    "This gateway does not serve the host in the Host field. It serves the host of OSTIARY_ISSUER, those in a route's"
    " 'match.hosts', and those in 'hosts_internal' of the routes file.",
)
_INVALID_TARGET = Problem(400, "invalid_target", "The target must be a path, or a URL with the host of the Host field.")
_HAS_FRAGMENT = Problem(
    400, "invalid_target", "The target must not have a fragment: send '#' as %23, or nothing from it on."
)

# RFC 9112 section 3.2.2, without user information.
_ABSOLUTE = re.compile(rb"(https?)://([^/?#@]*)((?:[/?][^#]*)?)\Z", re.IGNORECASE)

#: The target of an OPTIONS request that asks about the server as a whole (RFC 9112 section 3.2.4).
SERVER = b"*"

_NOT_ASCII = re.compile(rb"[\x80-\xff]+")


class Trace(Protocol):
    """A request's span in a tracing system."""

    @property
    def fields(self) -> Fields:
        """The trace context for the upstream, in place of the client's own fields."""

    def end(self, attributes: dict[str, str | int | float]) -> None: ...


class RequestContext:
    """A request's head and origin, and what admission has found out and decided."""

    # No dataclass: there is one per request, and generated methods are not compiled.
    def __init__(self, request: Request, peer: str, scheme: bytes, request_id: bytes) -> None:
        """`peer` is the address of the connection's other end."""
        self.request = request
        self.peer = peer
        #: The client's address: the peer's, or what a trusted proxy tells.
        self.client = peer
        self.scheme = scheme
        self.request_id = request_id
        #: The target without and with the query; and, if the path is rewritten, the target for the upstream.
        self.path = b""
        self.target = b""
        self.rewritten = b""
        #: The host that the client asked for, in its normalised form, with the port if it is not that of `scheme`.
        self.host = b""
        #: The origin of pages under this host (RFC 6454 section 6.2); b"" for the gateway's own endpoints.
        self.own_origin = b""
        #: Serialized fields that tell the service about all of that; and the start of the path that a rewrite strips.
        self.forwarded = b""
        self.prefix = b""
        #: The configuration by which all of that was found out.
        self.located_by: object = None
        #: Whether the gateway serves the path itself.
        self.is_local = False
        #: The head's credentials; None until they are looked at.
        self.credentials: Credentials | None = None
        self.route: Route | None = None
        self.token: VerifiedToken | None = None
        #: The same as it was presented, and the age that revocations may have by all routes that it was verified for.
        self.used: Presented | None = None
        self.max_staleness: float | None = None
        #: The browser session whose cookie counts; and its token for the service.
        self.session: Session | None = None
        self.bearer = b""
        #: The renewal that the request has waited for last, and how many it has waited for.
        self.renewal: Renewal | None = None
        self.renewals = 0
        #: The value of `Set-Cookie` with a renewed token; b"" if there is none.
        self.renewed_cookie = b""
        #: The fields for the service, if they are not the client's: with other credentials.
        self.forwarding: Forwarding | None = None
        #: What the response says about cookies: `SESSIONS` and others of `access.rules`.
        self.cookie_rules = 0
        self.is_websocket = False
        #: The route's; None until admission.
        self.rules: RouteRules | None = None
        #: The values of `RateLimit` and `RateLimit-Policy`; empty if the request was not counted.
        self.rate_limit = b""
        self.rate_limit_policy = b""
        #: The limits that it has been counted by, and which kinds of them.
        self.counted_by: object = None
        self.counted: tuple[str, ...] = ()
        #: CORS fields of the response; None if there are no rules.
        self.cors: CorsFields | None = None
        #: What COPY and MOVE write to, by the path that the upstream gets.
        self.destination: Destination | None = None
        #: None without a tracing system.
        self.trace: Trace | None = None

    def reuse(self, request_id: bytes) -> "RequestContext":
        """Return a new context for the same head: with what was parsed, without what was decided."""
        context = RequestContext(self.request, self.peer, self.scheme, request_id)
        context.client, context.host, context.own_origin = self.client, self.host, self.own_origin
        context.path, context.target, context.located_by = self.path, self.target, self.located_by
        context.forwarded = self.forwarded
        context.is_local, context.credentials = self.is_local, self.credentials
        return context

    def admit_again(self) -> None:
        """Forget what has been decided, before it is decided again."""
        self.token = self.session = self.used = self.forwarding = self.destination = self.max_staleness = None
        self.bearer = self.renewed_cookie = self.rewritten = self.prefix = b""
        self.cors = None
        self.cookie_rules = 0


class RequestIds:
    """Makes request ids of a random prefix per process and a counter: they are unique, but no secret."""

    def __init__(self) -> None:
        self._process = os.urandom(8)
        self._number = 0

    def id_for(self, request: Request) -> bytes:
        """Return the request's own id if it is usable, or a new one."""
        given = request.by_name.get(b"x-request-id")
        if given is not None and is_request_id(given):
            return given
        self._number += 1
        return (self._process + self._number.to_bytes(8, "big")).hex().encode()


def parse_target(context: RequestContext, own_paths: frozenset[bytes]) -> bytes:
    """Set target and path, and return the value of `Host`; b"" only for one of `own_paths`. Raises ProblemError."""
    request = context.request
    target, host = request.target, request.by_name.get(b"host", b"")
    if not host and not _may_lack_host(request, own_paths):
        raise ProblemError(INVALID_HOST)
    if b"#" in target:
        # A fragment is never sent (RFC 9110 section 7.1), and some servers cut it off.
        raise ProblemError(_HAS_FRAGMENT)
    if not target.startswith(b"/") and not (target == SERVER and request.method == "OPTIONS"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None or not _is_same_authority(absolute[1], absolute[2], host):
            raise ProblemError(_INVALID_TARGET)
        target = _origin_form(request.method, absolute[3])
    context.target, context.path = _canonical(target)
    context.is_local = context.path in own_paths
    return host


def _origin_form(method: str, rest: bytes) -> bytes:
    """Return the target that the rest of a URL after its authority stands for (RFC 9112 sections 3.2.1 and 3.2.4)."""
    if rest.startswith(b"/"):
        return rest
    return SERVER if method == "OPTIONS" and not rest else b"/" + rest


def _canonical(target: bytes) -> tuple[bytes, bytes]:
    """Return the canonical form of a target, with its query and without. Raises ProblemError."""
    path, mark, query = target.partition(b"?")
    if target == SERVER:
        return target, path
    try:
        canonical = paths.canonicalise(path).raw
    except InvalidPath as error:
        raise ProblemError(problem_of_path(error)) from None
    if not query.isascii():
        # Some clients send UTF-8 as it is, some servers refuse it (RFC 3986 section 2.1).
        query = _NOT_ASCII.sub(_escape, query)
    elif canonical == path:
        return target, path
    return canonical + mark + query, canonical


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%" + match[0].hex("%").upper().encode()


def problem_of_path(error: InvalidPath) -> Problem:
    if isinstance(error, PathTooLong):
        return Problem(414, "path_too_long", str(error))
    if isinstance(error, EncodedCharacter):
        return Problem(400, "encoded_character", str(error), extra={"character": error.character})
    return Problem(400, "ambiguous_path", str(error))


def _may_lack_host(request: Request, own_paths: frozenset[bytes]) -> bool:
    """Whether a request may come without a host: a health check, whose client may know no name of ours.

    HTTP/1.0 does not know the field; in HTTP/1.1 it is then empty (RFC 9112 section 3.2).
    """
    host = request.by_name.get(b"host")
    is_unknown = host == b"" if request.is_http11 else not host
    is_own = request.target == SERVER or request.target.partition(b"?")[0] in own_paths
    return is_unknown and is_own


def _is_same_authority(scheme: bytes, authority: bytes, host: bytes) -> bool:
    """Return whether a target names the same host and port as `Host`: services look at either."""
    port = DEFAULT_PORTS[scheme.decode().lower()]
    try:
        (one, one_port), (other, other_port) = parse_authority(authority), parse_authority(host)
    except InvalidHost:
        return False
    return one == other and (one_port or port) == (other_port or port)
