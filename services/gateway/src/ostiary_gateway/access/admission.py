"""Decides about requests, once and from the head alone: which route a request takes, or which problem it gets.

Nothing here waits, and no upstream is involved before the decision.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Self

from ostiary.errors import AccessError
from ostiary.http import Problem
from ostiary_chassis.problems import NOT_FOUND, ProblemError, body_too_large, method_not_allowed
from ostiary_chassis.proxies import TrustedProxies, source_of
from ostiary_gateway.access import cors
from ostiary_gateway.access.authentication import Authentication, credentials_of
from ostiary_gateway.access.cors import CorsFields, CorsRules
from ostiary_gateway.access.destination import DESTINATION_METHODS, FOREIGN_DESTINATION, destination_of
from ostiary_gateway.access.forwarded import forwarded_fields, stripped_prefix
from ostiary_gateway.access.login_page import login_page
from ostiary_gateway.access.request import (
    INVALID_HOST,
    SERVER,
    UNKNOWN_HOST,
    RequestContext,
    parse_target,
    problem_of_path,
)
from ostiary_gateway.access.rules import RouteRules
from ostiary_gateway.access.unread_head import UnreadHead
from ostiary_gateway.http1 import websocket
from ostiary_gateway.http1.body import ContentLengthBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.headers import request_filter
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES, Request
from ostiary_gateway.ratelimit.route_limits import RouteLimits
from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing import templates
from ostiary_gateway.routing.config import OWN_PATHS, Route
from ostiary_gateway.routing.hosts import InvalidHost, KnownHosts, UnknownHost, parse_authority
from ostiary_gateway.routing.overlap import OwnerIndex
from ostiary_gateway.routing.paths import InvalidPath
from ostiary_gateway.routing.policies import Cors, RateLimit
from ostiary_gateway.routing.table import DuplicateField, NoRoute, RouteTable, WrongMethod

_DUPLICATE_FIELD = Problem(400, "repeated_field", "Duplicate header field used for routing.")
_NOMINATED_FIELD = Problem(
    400, "nominated_field", "Connection lists a header field used for routing; the service would not receive it."
)
_FOREIGN_ORIGIN = Problem(
    403,
    "foreign_origin",
    "Pages of this origin may not open WebSockets here. To let them, name the origin in the route's 'cors';"
    " the gateway's own is that of OSTIARY_ISSUER with the request's host.",
)
_UNAUTHORIZED = 401
_TOO_MANY = Problem(429, "too_many_requests", "Too many requests; retry after the number of seconds in Retry-After.")


#: What trusted proxies send in `X-Forwarded-Proto`; some send that of WebSockets.
_SCHEMES = {b"http": b"http", b"ws": b"http", b"https": b"https", b"wss": b"https"}


class InsufficientClaims(AccessError):
    """A claim of the token does not meet the route's condition."""

    code = "insufficient_claims"
    detail = "The access token's claims do not allow this."


class Admission:
    """Admits requests to routes."""

    def __init__(
        self,
        table: RouteTable,
        owners: OwnerIndex,
        authentication: Authentication,
        proxies: TrustedProxies,
        hosts: KnownHosts,
        *,
        previous: Self | None = None,
        default_cors: Cors | None = None,
        own_paths: frozenset[str] = OWN_PATHS,
    ) -> None:
        """Take over the rate limiters of `previous` where the limit has not changed.

        `default_cors` holds for responses without a route. `own_paths` are those that the gateway serves itself.
        """
        self._authentication = authentication
        browser = self._browser = authentication.browser
        self._own_paths = frozenset(path.encode() for path in own_paths)
        self._proxies = proxies
        self._hosts = hosts
        self._table = table
        self._owners = owners
        self.routing_headers = table.routing_headers
        known = previous.limiters if previous is not None else {}
        self.limiters: dict[tuple[str, RateLimit], RateLimiter] = {
            (route.name, limit): known.get((route.name, limit)) or RateLimiter(limit)
            for route in table.routes
            for limit in route.rate_limits
        }
        self._rules = {
            route.name: RouteRules(
                route,
                self.limiters,
                request_filter(route.drop_headers, route.pass_headers, table.routing_headers),
                # Announced now, so that it holds for the first request.
                authentication.verifier.require_staleness(route.staleness_limit),
                browser.upstream if browser is not None else None,
            )
            for route in table.routes
        }
        self._default_cors = CorsRules(default_cors) if default_cors is not None else None
        self._has_cors = default_cors is not None or any(route.cors is not None for route in table.routes)

    def parts(self) -> list[object]:
        """Return what this is made of for each route."""
        return list(self._rules.values())

    def locate(self, context: RequestContext) -> None:
        """Set the client, host and path of a request, from its head alone. Raises ProblemError."""
        host = parse_target(context, self._own_paths)
        if context.is_local and context.request.size > DEFAULT_HEAD_BYTES:
            raise ProblemError(_head_too_large(context.request, DEFAULT_HEAD_BYTES))
        scheme = b""
        if self._proxies.trusts(context.peer):
            scheme, host = self._apply_forwarded(context, host)
        try:
            known = self._hosts.find(host or self._hosts.issuer_host)
        except InvalidHost:
            raise ProblemError(INVALID_HOST) from None
        except UnknownHost:
            # What the gateway itself answers is for probes, too, which call it by its address.
            if not context.is_local and context.path != SERVER:
                raise ProblemError(UNKNOWN_HOST) from None
        else:
            context.scheme = scheme or known.scheme
            context.host, context.own_origin = known.authority(context.scheme), known.own_origin
            context.forwarded = forwarded_fields(
                context.client, context.scheme, context.host, context.request.is_http11
            )
        context.located_by, context.credentials = self, None

    def admit(self, context: RequestContext) -> Route:
        """Return the route that a request takes. Raises ProblemError or OstiaryError if it is rejected.

        Raises RenewalNeeded if it has to wait for a token; when there is an answer, it is admitted again.
        """
        request = context.request
        if not self.routing_headers.isdisjoint(request.connection_options):
            raise ProblemError(_NOMINATED_FIELD)
        route = context.route = self._find(context, request.method, context.path)
        rules = context.rules = self._rules[route.name]
        if rules.cors is not None:
            context.cors = rules.cors.response(request.by_name.get(b"origin", b""))
        if request.size > rules.header_bytes:
            raise ProblemError(_head_too_large(request, rules.header_bytes))
        limits = rules.rate_limits
        if limits is not None:
            _limit(context, limits, "address", source_of(context.client))
        if b"upgrade" in request.by_name:
            # Others than to WebSocket are ignored (RFC 9110 section 7.8).
            context.is_websocket = route.websocket and websocket.is_handshake(request)
        self._authorise(route, context)
        if limits is not None and context.token is not None:
            _limit(context, limits, "subject", context.token.subject)
            _limit(context, limits, "client", context.token.client_id)
        if context.is_websocket and b"cookie" in request.by_name:
            self._check_origin(route, context)
        if isinstance(request.body, ContentLengthBody) and request.body.left > rules.body_bytes:
            raise ProblemError(body_too_large(rules.body_bytes))
        self._authorise_owners(route, context, _upstream_path(route, context))
        if request.method in DESTINATION_METHODS:
            self._authorise_destination(route, context)
        self._authentication.forward(rules, context)
        context.cookie_rules = self._authentication.cookie_rules(rules, context)
        return route

    def login_page(self, context: RequestContext, problem: Problem) -> bytes | None:
        """Return where a person goes who opens a page without a session; None for other problems and requests."""
        route, browser = context.route, self._browser
        if problem.status != _UNAUTHORIZED or route is None or route.login is None or browser is None:
            return None
        return login_page(context, browser)

    def own_options(self, context: RequestContext) -> Fields | None:
        """Return the header fields with which the gateway itself answers an OPTIONS request; None if a route does.

        It answers preflights, unless a service has CORS rules of its own; and which methods a path has (RFC 9110
        section 9.3.7), unless a route takes OPTIONS. Raises ProblemError.
        """
        if context.path == SERVER:
            return [(b"allow", _allow(self._table.methods).encode())]
        if cors.is_preflight(context.request) and (fields := self._preflight(context)) is not None:
            return fields
        methods = self._methods_at(context)
        return [(b"allow", _allow(methods).encode())] if methods and "OPTIONS" not in methods else None

    def preflight_without_route(self, context: RequestContext) -> Fields | None:
        """Return the header fields for a preflight of a request that will be rejected, or that no route takes.

        So the page gets to read the response. None if there is no preflight, or the page may not.
        """
        request = context.request
        if context.route is not None or not cors.is_preflight(request):
            return None
        origin, method = request.by_name[b"origin"], cors.requested(request)[0]
        rules, methods = self._cors_at(context.host, context.path, origin)
        if rules is None or not rules.allows(origin) or not cors.is_method(method):
            return None
        # Not to be kept: the path may get a route, with other rules.
        return rules.preflight(request, {*methods, method}, is_cacheable=False)

    def cors_without_route(self, context: RequestContext) -> CorsFields | None:
        """Return the CORS fields of a response to a request that takes no route; None if there are no rules."""
        origin = context.request.by_name.get(b"origin", b"")
        rules, _ = self._cors_at(context.host, context.path, origin)
        return rules.response(origin) if rules is not None else None

    @property
    def has_cors(self) -> bool:
        """Whether pages of other origins may read any response."""
        return self._has_cors

    def cors_of_unread(self, head: UnreadHead) -> CorsFields | None:
        """Return the CORS fields of the response to a head that is no request."""
        try:
            known = self._hosts.find(head.host)
            host = known.authority(known.scheme)
        except (InvalidHost, UnknownHost):
            host = b""
        rules, _ = self._cors_at(host, head.path, head.origin)
        return rules.response(head.origin) if rules is not None else None

    def _cors_at(self, host: bytes, path: bytes, origin: bytes) -> tuple[CorsRules | None, Collection[str]]:
        """Return the rules of any route at a path that allows an origin, and their methods; or the default."""
        try:
            candidates = self._table.candidates(host, path) if path else {}
        except InvalidPath:
            candidates = {}
        if not candidates:
            return self._default_cors, ()
        found = {
            method: rules
            for method, routes in candidates.items()
            for route in routes
            if (rules := self._rules[route.name].cors) is not None
        }
        allowing = [method for method, rules in found.items() if rules.allows(origin)]
        return cors.any_of(found.values(), origin), allowing

    def _methods_at(self, context: RequestContext) -> Collection[str]:
        """Return the methods that routes take at a path; none if no route matches. Raises ProblemError."""
        try:
            return self._table.candidates(context.host, context.path).keys()
        except InvalidPath as error:
            raise ProblemError(problem_of_path(error)) from None

    def _preflight(self, context: RequestContext) -> Fields | None:
        """Return the header fields for a preflight; None if its route has no `cors`. Raises ProblemError."""
        request = context.request
        method, names = cors.requested(request)
        route = context.route = self._find(context, method, context.path, names)
        rules = self._rules[route.name]
        if rules.cors is None:
            return None
        if rules.rate_limits is not None:
            # It is answered in any case: only so does the page get to read the 429 that follows.
            rules.rate_limits.take("address", source_of(context.client), [])
        return rules.cors.preflight(request, route.match.methods)

    def _apply_forwarded(self, context: RequestContext, host: bytes) -> tuple[bytes, bytes]:
        """Believe a trusted proxy: set the client, and return the scheme, b"" if unknown, and the value of `Host`."""
        fields, by_name = context.request.fields, context.request.by_name
        forwarded = [value.decode("latin-1") for name, value in fields if name == b"x-forwarded-for"]
        context.client = self._proxies.source(context.peer, forwarded) or context.peer
        # Each proxy appends its own value or replaces all: the last one is that of the nearest proxy.
        scheme = _SCHEMES.get(by_name.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower(), b"")
        forwarded_host = by_name.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip()
        if forwarded_host and host:
            # Even if it is of no consequence.
            _check_host(host)
        return scheme, forwarded_host or host

    def _find(
        self, context: RequestContext, method: str, path: bytes, preflight_headers: Collection[str] | None = None
    ) -> Route:
        """Find the route. Raises ProblemError."""
        try:
            return self._table.find(method, context.host, path, context.request.fields, preflight_headers)
        except InvalidPath as error:
            raise ProblemError(problem_of_path(error)) from None
        except NoRoute:
            raise ProblemError(NOT_FOUND) from None
        except DuplicateField:
            raise ProblemError(_DUPLICATE_FIELD) from None
        except WrongMethod as error:
            raise ProblemError(method_not_allowed(_allow(error.allowed))) from None

    def _authorise(self, route: Route, context: RequestContext) -> None:
        """Verify the token, and check that it meets the route's requirements. Raises as `admit`."""
        if route.is_public:
            return
        token = self._authentication.token(self._rules[route.name], context)
        required = route.requirements
        if required is not None and token is not None:
            token.require(scopes=required.scopes, roles=required.roles)
            if required.claims and not required.claims_hold(token):
                raise InsufficientClaims

    def _check_origin(self, route: Route, context: RequestContext) -> None:
        """Check who opens a WebSocket with cookies of the service's own. Raises ProblemError.

        Browsers send them with handshakes of any page (RFC 6455 section 10.2).
        """
        browser, origin = self._browser, context.request.by_name.get(b"origin", b"").lower()
        if browser is not None and (browser.trusts(origin) or not credentials_of(context).has_others()):
            return
        if not _is_allowed_origin(route, context):
            raise ProblemError(_FOREIGN_ORIGIN)

    def _authorise_owners(self, route: Route, context: RequestContext, upstream_path: bytes) -> None:
        """Apply the access rules of the routes that own the upstream path, too. Raises as `admit`."""
        method = context.request.method
        owners = self._owners.owners_for(route, method, upstream_path)
        if not owners:
            return
        methods = {each for owner in owners for each in owner.match.methods}
        if method not in methods and route.rewrite is not None:
            raise ProblemError(method_not_allowed(_allow(methods)))
        for owner in owners:
            if owner is not route:
                self._authorise(owner, context)

    def _authorise_destination(self, route: Route, context: RequestContext) -> None:
        """Apply the access rules of the path that a COPY or MOVE writes to. Raises ProblemError or OstiaryError."""
        try:
            destination = destination_of(context.request, context.host)
        except InvalidPath as error:
            raise ProblemError(problem_of_path(error)) from None
        if destination is None:
            return
        other = self._find(context, context.request.method, destination.path)
        if other.upstreams != route.upstreams:
            raise ProblemError(FOREIGN_DESTINATION)
        self._authorise(other, context)
        upstream_path = _rewritten(other, destination.path)
        self._authorise_owners(other, context, upstream_path)
        context.destination = destination.on_upstream(upstream_path)


def _limit(context: RequestContext, limits: RouteLimits, by: str, key: str) -> None:
    """Count a request, once. Raises ProblemError if it is over a limit."""
    if context.counted_by is not limits:
        context.counted_by, context.counted = limits, ()
    if by in context.counted:
        return
    context.counted += (by,)
    told: list[bytes] = [context.rate_limit] if context.rate_limit else []
    seconds = limits.take(by, key, told)
    context.rate_limit, context.rate_limit_policy = b", ".join(told), limits.policy
    if seconds:
        raise ProblemError(replace(_TOO_MANY, headers={"Retry-After": str(seconds)}))


def _upstream_path(route: Route, context: RequestContext) -> bytes:
    """Return the path for the upstream; if it is rewritten, set it in the context. Raises ProblemError."""
    if route.rewrite is None:
        return context.path
    path = _rewritten(route, context.path)
    query = context.target.partition(b"?")
    context.rewritten = path + query[1] + query[2]
    context.prefix = stripped_prefix(context.path, path)
    return path


def _rewritten(route: Route, path: bytes) -> bytes:
    """Return what the upstream gets for a path of a route. Raises ProblemError."""
    if route.rewrite is None:
        return path
    try:
        return templates.rewrite(path, route.match.path, route.rewrite)
    except InvalidPath as error:
        raise ProblemError(problem_of_path(error)) from None


def _check_host(value: bytes) -> None:
    """Raise ProblemError for an invalid value of `Host`."""
    try:
        parse_authority(value)
    except InvalidHost:
        raise ProblemError(INVALID_HOST) from None


def _is_allowed_origin(route: Route, context: RequestContext) -> bool:
    """Return whether a request comes from a page of its own origin, of one that the route's `cors` names, or from none.

    Who names no origin is no browser (RFC 6455 section 1.6).
    """
    by_name = context.request.by_name
    origin = by_name.get(b"origin")
    if origin is None:
        return b"sec-fetch-site" not in by_name
    return origin.lower() == context.own_origin or cors.trusts_origin(route, origin.lower())


def _allow(methods: Collection[str]) -> str:
    """Return the value of `Allow`: these methods, and OPTIONS, which the gateway answers."""
    return ", ".join(sorted({*methods, "OPTIONS"}))


def _head_too_large(request: Request, limit: int) -> Problem:
    if len(request.method) + len(request.target) > limit:
        return Problem(414, "target_too_long", f"The request line is over the limit of {limit} bytes.")
    return Problem(431, "head_too_large", f"Request line and header fields are over the limit of {limit} bytes.")
