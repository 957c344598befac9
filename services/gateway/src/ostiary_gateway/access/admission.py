"""Who gets in: from the head of a request to the route that it takes, or to the answer that it gets instead.

Everything is decided here, once, before an upstream hears of the request; nothing here waits.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Self

from ostiary import Verifier
from ostiary.errors import AccessError
from ostiary.http import Problem, bearer_token
from ostiary_chassis.problems import NOT_FOUND, ProblemError, body_too_large, method_not_allowed
from ostiary_chassis.proxies import TrustedProxies, source_of
from ostiary_gateway.access import cors
from ostiary_gateway.access.request import RequestContext, read_target
from ostiary_gateway.http1 import websocket
from ostiary_gateway.http1.body import ContentLengthBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.config import RateLimit, Route
from ostiary_gateway.routing.overlap import Guards
from ostiary_gateway.routing.paths import AmbiguousPath
from ostiary_gateway.routing.table import NoRoute, RepeatedField, RouteTable, WrongMethod

_AMBIGUOUS_PATH = Problem(400, "ambiguous_path", "The path is not in its canonical form; send it plainly.")
_REPEATED_FIELD = Problem(400, "repeated_field", "A header field that tells what is asked for stands here twice.")
_NOMINATED_FIELD = Problem(
    400,
    "nominated_field",
    "Connection names a header field that tells what is asked for; the service would not get it.",
)

_FOREIGN_ORIGIN = Problem(403, "foreign_origin", "Pages of this origin may not open WebSockets here.")
_TOO_MANY = Problem(429, "too_many_requests", "Too many requests; try again after the seconds in Retry-After.")


class InsufficientClaims(AccessError):
    """A claim is not what the route asks for."""

    code = "insufficient_claims"
    detail = "The access token's claims do not allow this."


class Admission:
    """Decides about requests."""

    def __init__(
        self,
        table: RouteTable,
        guards: Guards,
        verifier: Verifier,
        proxies: TrustedProxies,
        before: Self | None = None,
    ) -> None:
        """Make the gate; somebody else opens and closes `verifier`.

        What has been counted goes on to count if there was a gate `before`.
        """
        self._proxies = proxies
        self._table = table
        self._guards = guards
        #: The names of fields by which routes are chosen, in lower case.
        self.routing_headers = table.routing_headers
        self._verifier = verifier
        known = before.limiters if before is not None else {}
        self.limiters: dict[tuple[str, RateLimit], RateLimiter] = {
            (route.name, limit): known.get((route.name, limit)) or RateLimiter(limit)
            for route in table.routes
            for limit in route.rate_limits
        }
        for route in table.routes:
            # Said now, it is kept to from the first request on.
            verifier.require_staleness(route.bound)

    def locate(self, context: RequestContext) -> None:
        """Note where a request comes from and goes to: by its head alone. Raises ProblemError."""
        if self._proxies.trusts(context.client):
            self._believe_proxies(context)
        read_target(context)

    def admit(self, context: RequestContext) -> Route:
        """Return the route that a request takes. Raises ProblemError or OstiaryError for what is refused."""
        request = context.request
        if not self.routing_headers.isdisjoint(request.connection_options):
            raise ProblemError(_NOMINATED_FIELD)
        route = context.route = self._find(context, request.method)
        if route.cors is not None:
            context.cors = cors.answer(route, request)
        if request.size > route.limits.header_bytes:
            raise ProblemError(_head_too_large(route.limits.header_bytes))
        if route.rate_limits:
            self._limit(route, "address", source_of(context.client))
        self._authorise(route, context)
        if route.rate_limits and context.token is not None:
            self._limit(route, "subject", context.token.subject)
            self._limit(route, "client", context.token.client_id)
        if b"upgrade" in request.by_name:
            self._check_upgrade(route, context)
        if isinstance(request.body, ContentLengthBody) and request.body.left > route.limits.body_bytes:
            raise ProblemError(body_too_large(route.limits.body_bytes))
        self._ask_owners(route, context, _path_for_upstream(route, context))
        return route

    def preflight(self, context: RequestContext) -> Fields | None:
        """Return the fields that answer a browser's preflight; None if a request is none. Raises ProblemError."""
        request = context.request
        if not cors.is_preflight(request):
            return None
        method, announced = cors.announced(request)
        route = context.route = self._find(context, method, announced)
        self._limit(route, "address", source_of(context.client))
        return cors.preflight(route, request)

    def _believe_proxies(self, context: RequestContext) -> None:
        fields_of_request, names = context.request.fields, context.request.by_name
        said = [value.decode("latin-1") for name, value in fields_of_request if name == b"x-forwarded-for"]
        context.client = self._proxies.source(context.client, said) or context.client
        # Each proxy adds what it has seen at the end, if it does not replace what was there: so the last one's counts.
        if names.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower() == b"https":
            context.scheme = b"https"

    def _find(self, context: RequestContext, method: str, announced: Collection[str] | None = None) -> Route:
        """Return the route of a request, or of one that is announced. Raises ProblemError."""
        try:
            return self._table.find(method, context.host, context.path, context.request.fields, announced)
        except AmbiguousPath:
            raise ProblemError(_AMBIGUOUS_PATH) from None
        except NoRoute:
            raise ProblemError(NOT_FOUND) from None
        except RepeatedField:
            raise ProblemError(_REPEATED_FIELD) from None
        except WrongMethod as error:
            raise ProblemError(method_not_allowed(", ".join(sorted(error.allowed)))) from None

    def _authorise(self, route: Route, context: RequestContext) -> None:
        """Note the caller's token, where one is needed, and see that it suffices. Raises OstiaryError."""
        if route.is_public:
            return
        presented = context.presented
        if presented is None:
            values = [value.decode("latin-1") for name, value in context.request.fields if name == b"authorization"]
            presented = context.presented = self._verifier.present(bearer_token(values))
        # Noted before it is looked at more closely: the log says who was refused.
        token = context.token = self._verifier.verify(presented, max_staleness=route.bound)
        wanted = route.requirements
        if wanted is not None:
            token.require(scopes=wanted.scopes, roles=wanted.roles)
            if wanted.claims and not wanted.allows(token):
                raise InsufficientClaims

    def _check_upgrade(self, route: Route, context: RequestContext) -> None:
        """Note an offer to become a WebSocket. Others are ignored (RFC 9110 section 7.8). Raises ProblemError."""
        request = context.request
        context.is_websocket = route.websocket and websocket.is_handshake(request)
        if context.is_websocket and b"cookie" in request.by_name and not _is_of_origin(route, context):
            # Browsers send cookies along with the handshakes of any page (RFC 6455 section 10.2).
            raise ProblemError(_FOREIGN_ORIGIN)

    def _limit(self, route: Route, by: str, key: str) -> None:
        """Count a request. Raises ProblemError for one too many."""
        for limit in route.rate_limits:
            if limit.by == by and (seconds := self.limiters[route.name, limit].take(key)):
                raise ProblemError(replace(_TOO_MANY, headers={"Retry-After": str(seconds)}))

    def _ask_owners(self, route: Route, context: RequestContext, path: bytes) -> None:
        """See that who may not use a path of the upstream by its own routes does not reach it by another one.

        Raises ProblemError or OstiaryError.
        """
        method = context.request.method
        asked = self._guards.asked(route, method, path)
        if not asked:
            return
        methods = {each for owner in asked for each in owner.match.methods}
        if method not in methods and route.rewrite is not None:
            raise ProblemError(method_not_allowed(", ".join(sorted(methods))))
        for each in asked:
            if each is not route:
                self._authorise(each, context)


def _path_for_upstream(route: Route, context: RequestContext) -> bytes:
    """Give the request the path that its upstream gets, and return that. Raises ProblemError."""
    if route.rewrite is None:
        return context.path
    try:
        path = paths.rewritten(paths.split(context.path), route.match.path, route.rewrite)
    except AmbiguousPath:
        raise ProblemError(_AMBIGUOUS_PATH) from None
    query = context.target.partition(b"?")
    context.rewritten = path + query[1] + query[2]
    return path


def _is_of_origin(route: Route, context: RequestContext) -> bool:
    """Return whether a request comes from a page of its own origin, or of one that the route names."""
    origin = context.request.by_name.get(b"origin", b"").lower()
    allowed = route.cors.origins if route.cors is not None else frozenset()
    return origin.partition(b"://")[2] == context.host.lower() or origin.decode("latin-1") in allowed


def _head_too_large(limit: int) -> Problem:
    return Problem(431, "head_too_large", f"Request line and header fields may have {limit} bytes here.")
