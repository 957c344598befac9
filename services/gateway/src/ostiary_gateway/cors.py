"""Pages of other origins, in browsers (Fetch standard, section 3.2): the gateway answers for its routes."""

from ostiary_gateway.http1 import Request
from ostiary_gateway.routes_file import Cors, Route

_ANY = "*"

#: Upstreams have no say where the gateway has.
PREFIX = b"access-control-"


def is_preflight(request: Request) -> bool:
    """Return whether a browser asks what it may send; without a method, it is an OPTIONS like any other."""
    names = request.names
    return request.method == "OPTIONS" and b"origin" in names and b"access-control-request-method" in names


def lines(cors: Cors, origin: bytes) -> bytes:
    """Return the fields that let a page read the answer; it depends on the origin also if that may not."""
    allowed = _allowed(cors, origin)
    if allowed is None:
        return b"vary: origin\r\n"
    credentials = b"access-control-allow-credentials: true\r\n" if cors.credentials else b""
    expose = ", ".join(sorted({*cors.expose, "X-Request-ID"})).encode()
    return b"%b%baccess-control-expose-headers: %b\r\nvary: origin\r\n" % (allowed, credentials, expose)


def preflight(route: Route, request: Request) -> bytes:
    """Return the fields that answer a preflight."""
    cors = route.cors
    allowed = _allowed(cors, request.names[b"origin"]) if cors is not None else None
    if cors is None or allowed is None:
        return b"vary: origin\r\n"
    headers = ", ".join(sorted({*cors.headers, "Authorization", "Content-Type"})).encode()
    credentials = b"access-control-allow-credentials: true\r\n" if cors.credentials else b""
    return (
        b"%b%baccess-control-allow-methods: %b\r\naccess-control-allow-headers: %b\r\naccess-control-max-age: %d\r\n"
        b"vary: origin\r\n"
    ) % (allowed, credentials, ", ".join(sorted(route.match.methods)).encode(), headers, cors.max_age)


def _allowed(cors: Cors, origin: bytes) -> bytes | None:
    if _ANY in cors.origins and origin:
        return b"access-control-allow-origin: *\r\n"
    if origin.decode("latin-1").lower() in cors.origins:
        return b"access-control-allow-origin: %b\r\n" % origin
    return None
