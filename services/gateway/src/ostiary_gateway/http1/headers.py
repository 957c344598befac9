"""Which fields are forwarded, to the upstream and to the client.

Upstreams believe what a gateway tells them about the client: its identity, its address, the original request. So no
field is forwarded from a client that the gateway sets itself, nor one that services trust from other proxies
(`trusted_fields`), unless a route says so.
"""

import re
from collections.abc import Collection
from functools import lru_cache

from ostiary_gateway.http1.bounded_cache import BoundedCache, is_short
from ostiary_gateway.http1.fields import Fields, is_cacheable
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.http1.trusted_fields import TRUSTED, FieldNames, fold

#: Filters that are kept for reloads of the routes: routes with the same options share one.
FILTER_CACHE_SIZE = 64

# RFC 9110 section 7.6.1.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# The gateway handles `Expect` itself, and writes `Host` and the body's length anew.
_REQUEST_ONLY = frozenset({b"host", b"expect", b"content-length"})
_RESPONSE_ONLY = frozenset({b"server", b"content-length", b"x-request-id"})

# `Connection` cannot make these hop-by-hop: a client could remove what the request was admitted by.
_END_TO_END = rb"authorization|cookie|origin|range|cache-control|(?:content|if|sec)-.+"
_ALWAYS_END_TO_END = re.compile(rb"(?:" + _END_TO_END + rb")\Z")

# Fields not allowed in trailers, as decisions before the body depend on them (RFC 9110 section 6.5.1).
# A digest of the content is where it should be (RFC 9530 section 2).
_DECISIVE = rb"(?!content-digest\Z)(?:" + _END_TO_END + rb")"
_NOT_IN_REQUEST_TRAILERS = re.compile(rb"(?:" + _DECISIVE + rb"|referer|pragma|max-forwards|dpop|accept|accept-.+)\Z")
_NOT_IN_RESPONSE_TRAILERS = re.compile(
    rb"(?:" + _DECISIVE + rb"|set-cookie2?|(?:access-control|cross-origin|proxy)-.+"
    rb"|age|allow|alt-svc|clear-site-data|date|expires|location|pragma|ratelimit(?:-policy)?|refresh|retry-after|vary"
    rb"|www-authenticate"
    rb"|strict-transport-security|(?:referrer|permissions|feature)-policy|x-(?:content-type|frame)-options|x-accel-.+)\Z"
)

#: What the gateway decides by, or passes on as a part of a protocol; a service must not read another spelling of it.
_READ = frozenset(
    {
        *(b"content-type", b"access-control-request-method", b"access-control-request-headers"),
        *(b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol", b"sec-websocket-extensions"),
    }
)

#: What the gateway itself tells upstreams.
_OWN_FIELDS = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Proto"),
    "X-Request-ID",
)
_OWN = FieldNames(
    [
        *((name, "is set by the gateway") for name in _OWN_FIELDS),
        *((name.decode(), "is about the connection or the message") for name in _HOP_BY_HOP | _REQUEST_ONLY),
    ]
)


def is_own(name: str) -> bool:
    """Whether the gateway itself sets or removes request fields with this name, however a route is configured."""
    return bool(_OWN.find(fold(name.removesuffix("-*").encode())))


class RequestFilter:
    """Which fields of requests are forwarded on a route."""

    def __init__(self, dropped: Collection[str], passed: Collection[str], routing_headers: Collection[bytes]) -> None:
        """Take names as in the routes file, and those by which any route is matched, in lower case."""
        self._dropped = FieldNames((name, "is in drop_headers") for name in dropped)
        self._passed = FieldNames((name, "is in pass_headers") for name in passed)
        self._folded_routing_headers = frozenset(map(fold, routing_headers))
        self._routing_headers = frozenset(routing_headers)
        #: Serialized fields; empty for those that are not forwarded.
        self._lines: BoundedCache[tuple[bytes, bytes], bytes] = BoundedCache(self._line, is_cacheable)
        self._passes: BoundedCache[bytes, bool] = BoundedCache(lambda name: not self.fault(name), is_short)

    def fault(self, name: bytes) -> str:
        """Return why fields with this lower-case name are not forwarded; "" if they are."""
        folded = fold(name)
        if found := _OWN.find(folded):
            return found
        if folded != name and (folded in _READ or folded in self._folded_routing_headers):
            return f"may be taken for {folded.decode()}"
        if found := self._dropped.find(folded):
            return found
        found = TRUSTED.find(folded)
        return f"is trusted by services ({found})" if found and not self._passed.find(folded) else ""

    def lost(self, fields: Fields) -> dict[str, str]:
        """Return the names of those fields that are lost to the service, each with why.

        Fields about the connection are not: they end here in any case, as does `Host`.
        """
        faults = {name: self.fault(name) for name, _ in fields if name not in _HOP_BY_HOP and name not in _REQUEST_ONLY}
        return {name.decode(): fault for name, fault in faults.items() if fault}

    def serialize(self, fields: Fields, options: Collection[bytes]) -> bytes:
        """Serialize those fields of a request that are forwarded; `options` are those of its `Connection`."""
        lines = self._lines
        return b"".join([lines[field] for field in _without_nominated(fields, options)])

    def request(self, request: Request, fields: Fields) -> bytes:
        """`serialize` for a request, or for other fields in the place of its own, computed once for the same ones."""
        if (
            request.forwarded_lines is None
            or request.forwarded_by is not self
            or request.forwarded_fields is not fields
        ):
            request.forwarded_by, request.forwarded_fields = self, fields
            request.forwarded_lines = self.serialize(fields, request.connection_options)
        return request.forwarded_lines

    def trailers(self, trailers: Fields) -> bytes:
        """Serialize those trailers of a request that are forwarded: none by whose name a route may be chosen."""
        forwarded = [
            field
            for field in trailers
            if _NOT_IN_REQUEST_TRAILERS.match(field[0]) is None and field[0] not in self._routing_headers
        ]
        return self.serialize(forwarded, ())

    def _line(self, field: tuple[bytes, bytes]) -> bytes:
        return b"%b: %b\r\n" % field if self._passes[field[0]] else b""


@lru_cache(FILTER_CACHE_SIZE)
def request_filter(
    dropped: frozenset[str] = frozenset(),
    passed: frozenset[str] = frozenset(),
    routing_headers: frozenset[bytes] = frozenset(),
) -> RequestFilter:
    """Return the filter for these; routes that do not differ share one, and with it what it has cached."""
    return RequestFilter(dropped, passed, routing_headers)


def passes_to_client(name: bytes) -> bool:
    """Whether response fields with this lower-case name may be forwarded."""
    return name not in _HOP_BY_HOP and name not in _RESPONSE_ONLY


def to_client(fields: Fields, options: Collection[bytes]) -> bytes:
    """Serialize those fields of a response that are forwarded; `options` are those of its `Connection`."""
    return b"".join([_LINES_TO_CLIENT[field] for field in _without_nominated(fields, options)])


def trailers_to_client(trailers: Fields) -> bytes:
    """Serialize those trailers of a response that are forwarded."""
    return to_client([field for field in trailers if _NOT_IN_RESPONSE_TRAILERS.match(field[0]) is None], ())


def _without_nominated(fields: Fields, options: Collection[bytes]) -> Fields:
    """Drop fields that `Connection` nominates as hop-by-hop (RFC 9110 section 7.6.1)."""
    if not options:
        return fields
    nominated = {option for option in options if _ALWAYS_END_TO_END.match(option) is None}
    return [field for field in fields if field[0] not in nominated]


_PASSES_TO_CLIENT = BoundedCache(passes_to_client, is_short)

# Serialized fields; empty for those that are not forwarded.
_LINES_TO_CLIENT = BoundedCache(
    lambda field: b"%b: %b\r\n" % field if _PASSES_TO_CLIENT[field[0]] else b"", is_cacheable
)
