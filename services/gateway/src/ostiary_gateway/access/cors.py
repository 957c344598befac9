"""Cross-origin resource sharing (Fetch standard, section 3.2): the gateway answers preflights for all services.

Pages read its own responses, too: problems have the fields of the route, or of any route at the path, or of `defaults`.
"""

import re
from collections.abc import Iterable

from ostiary_gateway.http1.bounded_cache import BoundedCache, is_short
from ostiary_gateway.http1.fields import TOKEN, Fields, with_member
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.http1.serializer import lines
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.policies import Cors

_ANY = "*"

#: Fields with this prefix are dropped from the responses of routes with `cors`: the gateway sets them.
CORS_PREFIX = b"access-control-"

#: What pages need for handling errors and rate limits, and for conditional requests.
_EXPOSED = (
    "Allow",
    "ETag",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-ID",
)

#: What pages send for authentication, with JSON, and in conditional requests. `*` does not stand for the first.
_ALLOWED_HEADERS = ("Authorization", "Content-Type", "If-Match", "If-None-Match")

_REQUEST_METHOD, _REQUEST_HEADERS = b"access-control-request-method", b"access-control-request-headers"
_REQUEST_PRIVATE_NETWORK = b"access-control-request-private-network"

_VARY = (b"vary", b"Origin")

_TOKEN = re.compile(TOKEN)


class CorsFields:
    """The fields of a response that let a page read it, if that page may."""

    def __init__(self, own: Fields, *, varies: bool) -> None:
        """`varies` says whether the response depends on the origin, also if there are no fields for this one."""
        self.own = own
        self.varies = varies
        #: Serialised.
        self.lines = lines(own)

    def merged(self, fields: Fields) -> Fields:
        """Return a response's fields without CORS fields of its own, and with Origin in its `Vary`."""
        kept = [field for field in fields if not field[0].startswith(CORS_PREFIX)]
        return with_member(kept, *_VARY) if self.varies else kept


_NOT_ALLOWED = CorsFields([], varies=True)


class CorsRules:
    """The `cors` of a route, or of `defaults`."""

    def __init__(self, config: Cors) -> None:
        self._config = config
        self._exposed = _list(config.expose, *_EXPOSED)
        self._allowed_headers = _list(config.headers, *_ALLOWED_HEADERS)
        self._by_origin = BoundedCache(self._fields_for, is_short)

    @property
    def credentials(self) -> bool:
        return self._config.credentials

    def allows(self, origin: bytes) -> bool:
        """Return whether pages of an origin may read responses."""
        return _ANY in self._config.origins or self._config.allowed.matches(_text(origin))

    def response(self, origin: bytes) -> CorsFields:
        """Return the fields of a response to a page of an origin, which is b"" without that."""
        return self._by_origin[origin]

    def preflight(self, request: Request, methods: Iterable[str], *, is_cacheable: bool = True) -> Fields:
        """Return the fields of the response to a preflight, if one of these methods may follow."""
        origin = request.by_name.get(b"origin", b"")
        response = self.response(origin)
        fields = [field for field in response.own if field[0] != b"access-control-expose-headers"]
        if fields:
            fields += [
                (b"access-control-allow-methods", _list(methods)),
                (b"access-control-allow-headers", self._allowed_headers),
                (b"access-control-max-age", b"%d" % (self._config.max_age if is_cacheable else 0)),
            ]
        if request.by_name.get(_REQUEST_PRIVATE_NETWORK) == b"true" and self._config.trusted.matches(_text(origin)):
            # A page out on the internet asks for an address inside. Not for everybody: who says `*` may not know that
            # devices without any protection of their own are behind it.
            fields.append((b"access-control-allow-private-network", b"true"))
        return [*fields, _VARY] if response.varies else fields

    def _fields_for(self, origin: bytes) -> CorsFields:
        if _ANY in self._config.origins:
            # The same for all requests, so that caches need one response only.
            return CorsFields(
                [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", self._exposed)],
                varies=False,
            )
        if not origin or not self.allows(origin):
            return _NOT_ALLOWED
        fields = [(b"access-control-allow-origin", origin)]
        if self._config.credentials:
            fields.append((b"access-control-allow-credentials", b"true"))
        fields.append((b"access-control-expose-headers", self._exposed))
        return CorsFields(fields, varies=True)


def any_of(rules: Iterable[CorsRules], origin: bytes) -> CorsRules | None:
    """Return the rules that allow an origin most; if none does, any of them; None if there are none."""
    found = None
    for each in rules:
        if found is None or (each.allows(origin), each.credentials) > (found.allows(origin), found.credentials):
            found = each
    return found


def trusts_origin(route: Route, origin: bytes) -> bool:
    """Return whether a route's `cors` names the origin of a page. `*` and others that anybody can have name nobody."""
    return route.cors is not None and route.cors.trusted.matches(_text(origin))


def is_preflight(request: Request) -> bool:
    """Return whether a request is a preflight; an OPTIONS without a requested method is none."""
    by_name = request.by_name
    return request.method == "OPTIONS" and b"origin" in by_name and _REQUEST_METHOD in by_name


def requested(request: Request) -> tuple[str, frozenset[str]]:
    """Return the method and the header names, in lower case, that a preflight announces."""
    method, names = request.by_name[_REQUEST_METHOD], request.by_name.get(_REQUEST_HEADERS, b"")
    return method.decode("latin-1"), frozenset(name.strip() for name in names.decode("latin-1").lower().split(","))


def is_method(method: str) -> bool:
    """Return whether a requested method is one (RFC 9110 section 9.1)."""
    return method.isascii() and _TOKEN.fullmatch(method.encode()) is not None


def _text(origin: bytes) -> str:
    return origin.decode("latin-1").lower()


def _list(names: Iterable[str], *more: str) -> bytes:
    return ", ".join(sorted({*names, *more})).encode()
