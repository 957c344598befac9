"""Pages of other origins, in browsers (Fetch standard, section 3.2): the gateway answers for its routes."""

from collections.abc import Iterable

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.config import Cors, Route

_ANY = "*"
_REQUEST_HEADERS = b"access-control-request-headers"

#: Upstreams have no say where the gateway has.
PREFIX = b"access-control-"

# What an answer says depends on the origin, also if that may not read it.
_VARY = (b"vary", b"origin")


def is_preflight(request: Request) -> bool:
    """Return whether a browser asks what it may send; without a method, it is an OPTIONS like any other."""
    names = request.by_name
    return request.method == "OPTIONS" and b"origin" in names and b"access-control-request-method" in names


def announced(request: Request) -> tuple[str, frozenset[str]]:
    """Return the method, and the names of fields in lower case, of the request that a preflight is about."""
    method, names = request.by_name[b"access-control-request-method"], request.by_name.get(_REQUEST_HEADERS, b"")
    return method.decode("latin-1"), frozenset(name.strip() for name in names.decode("latin-1").lower().split(","))


def answer(route: Route, request: Request) -> Fields:
    """Return the fields that let a page read an answer."""
    fields = _allowing(route.cors, request)
    if route.cors is not None and fields:
        fields.append((b"access-control-expose-headers", _list(route.cors.expose, "X-Request-ID")))
    return [*fields, _VARY]


def preflight(route: Route, request: Request) -> Fields:
    """Return the fields that answer a preflight."""
    fields = _allowing(route.cors, request)
    if route.cors is not None and fields:
        fields += [
            (b"access-control-allow-methods", _list(route.match.methods)),
            (b"access-control-allow-headers", _list(route.cors.headers, "Authorization", "Content-Type")),
            (b"access-control-max-age", b"%d" % route.cors.max_age),
        ]
    return [*fields, _VARY]


def _allowing(cors: Cors | None, request: Request) -> Fields:
    """Return what lets the request's origin in; nothing if it may not."""
    origin = request.by_name.get(b"origin", b"")
    if cors is None or not origin:
        return []
    if _ANY in cors.origins:
        fields = [(b"access-control-allow-origin", b"*")]
    elif origin.decode("latin-1").lower() in cors.origins:
        fields = [(b"access-control-allow-origin", origin)]
    else:
        return []
    if cors.credentials:
        fields.append((b"access-control-allow-credentials", b"true"))
    return fields


def _list(names: Iterable[str], *more: str) -> bytes:
    return ", ".join(sorted({*names, *more})).encode()
