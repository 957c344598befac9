"""Cross-origin resource sharing (Fetch standard, section 3.2): the gateway answers preflights for all services."""

from collections.abc import Iterable

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.policies import Cors

_ANY = "*"
_REQUEST_HEADERS = b"access-control-request-headers"

#: Fields with this prefix are dropped from the responses of routes with `cors`: the gateway sets them.
CORS_PREFIX = b"access-control-"

# The response depends on the origin, also if no fields are set for that.
_VARY = (b"vary", b"origin")


def is_preflight(request: Request) -> bool:
    """Return whether a request is a preflight; an OPTIONS without a requested method is none."""
    by_name = request.by_name
    return request.method == "OPTIONS" and b"origin" in by_name and b"access-control-request-method" in by_name


def requested(request: Request) -> tuple[str, frozenset[str]]:
    """Return the method and the header names, in lower case, that a preflight announces."""
    method, names = request.by_name[b"access-control-request-method"], request.by_name.get(_REQUEST_HEADERS, b"")
    return method.decode("latin-1"), frozenset(name.strip() for name in names.decode("latin-1").lower().split(","))


def trusts_origin(route: Route, origin: bytes) -> bool:
    """Return whether a route's `cors` names the origin of a page. `*` and others that anybody can have name nobody."""
    return route.cors is not None and route.cors.trusted.matches(origin.decode("latin-1").lower())


def response_fields(route: Route, request: Request) -> Fields:
    """Return the fields that let a page read the response."""
    fields = _allow_fields(route.cors, request)
    if route.cors is not None and fields:
        fields.append((b"access-control-expose-headers", _list(route.cors.expose, "X-Request-ID")))
    return [*fields, _VARY]


def preflight_fields(route: Route, request: Request) -> Fields:
    """Return the fields of the response to a preflight."""
    fields = _allow_fields(route.cors, request)
    if route.cors is not None and fields:
        fields += [
            (b"access-control-allow-methods", _list(route.match.methods)),
            (b"access-control-allow-headers", _list(route.cors.headers, "Authorization", "Content-Type")),
            (b"access-control-max-age", b"%d" % route.cors.max_age),
        ]
    return [*fields, _VARY]


def _allow_fields(cors: Cors | None, request: Request) -> Fields:
    """Return the fields that allow the request's origin; none if it is not allowed."""
    origin = request.by_name.get(b"origin", b"")
    if cors is None or not origin:
        return []
    if _ANY in cors.origins:
        fields = [(b"access-control-allow-origin", b"*")]
    elif cors.allowed.matches(origin.decode("latin-1").lower()):
        fields = [(b"access-control-allow-origin", origin)]
    else:
        return []
    if cors.credentials:
        fields.append((b"access-control-allow-credentials", b"true"))
    return fields


def _list(names: Iterable[str], *more: str) -> bytes:
    return ", ".join(sorted({*names, *more})).encode()
