"""Which fields are forwarded, to the upstream and to the client.

Upstreams believe what a gateway tells them about the client: its identity, its address, the original request. So no
field that any common server, proxy or framework reads such things from is forwarded from a client.
"""

import re
from collections.abc import Collection

from ostiary_gateway.http1.bounded_cache import MAX_CACHED_BYTES, BoundedCache
from ostiary_gateway.http1.fields import Fields, is_cacheable
from ostiary_gateway.http1.parser import Request, Response

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
_NOT_IN_REQUEST_TRAILERS = re.compile(rb"(?:" + _END_TO_END + rb"|referer|pragma|max-forwards|dpop|accept.*)\Z")
_NOT_IN_RESPONSE_TRAILERS = re.compile(
    rb"(?:" + _END_TO_END + rb"|set-cookie2?|(?:access-control|cross-origin|proxy)-.+"
    rb"|age|allow|alt-svc|clear-site-data|date|expires|location|pragma|refresh|retry-after|vary|www-authenticate"
    rb"|strict-transport-security|(?:referrer|permissions|feature)-policy|x-(?:content-type|frame)-options|x-accel-.+)\Z"
)

# CGI, WSGI and others turn all other characters into '_', as they do with '-': `x_user` would become `x-user`.
_UNAMBIGUOUS_NAME = re.compile(rb"[a-z0-9-]+\Z")

#: Words for an identity or a permission, anywhere in a name that starts with `x-`.
_IDENTITY = (
    rb"user(?!-agent\Z)|login|auth(?!or)|oauth|sso|saml|oidc|scope|role|group|permission|privilege|admin|tenant"
    rb"|account|org(?:s|ani[sz]ation)?(?:-|\Z)|customer|member|email|mail\Z|identity|principal|subject|claim|jwt"
    rb"|id-token|assertion|impersonat|act-as|run-as|on-behalf-of|credential|consumer|cert|spiffe|internal"
    rb"|actor|caller|employee|(?:uid|upn|dn|cn)(?:-|\Z)"
)

#: Words for a client's address or protocol, anywhere in such a name.
_ORIGIN = rb"real-?ip|client-?ip|client-?cert|remote|ip(?:-|\Z)|scheme\Z"

#: Prefixes of whole names, with or without `x-`: the same, products' own names for them, and overrides of the request.
_PREFIXES = (
    rb"forwarded|original|rewrite|request-id|ostiary|host|script-name|accel|envoy|auth(?!orization\Z)|sub"
    rb"|ms-client|amzn-oidc|goog-(?:auth|iap)|client(?!-version\Z)|ssl|tls|web-?auth|iv|sm|tailscale|cf|azure|arr-|shib|eppn"
    rb"|eduperson|vouch|pomerium|hasura|appengine|front-end-https|http-method|method|http-.*override"
)
_TRUSTED_BY_UPSTREAMS = re.compile(
    rb"(?:x-)?(?:" + _PREFIXES + rb"|" + _IDENTITY + rb"|" + _ORIGIN + rb")"
    rb"|x-(?:[a-z0-9]+-)+(?:" + _IDENTITY + rb"|" + _ORIGIN + rb")"
    rb"|proxy\Z|.*-client-?ip\Z|.*-connecting-ip\Z"
)

_HOST = re.compile(rb"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


def is_host(value: bytes) -> bool:
    """Whether the value of `Host` is a host with an optional port (RFC 9112 section 3.2)."""
    return _IS_HOST[value]


def passes_to_upstream(name: bytes) -> bool:
    """Whether request fields with this lower-case name may be forwarded."""
    return (
        name not in _HOP_BY_HOP
        and name not in _REQUEST_ONLY
        and _UNAMBIGUOUS_NAME.match(name) is not None
        and _TRUSTED_BY_UPSTREAMS.match(name) is None
    )


def passes_to_client(name: bytes) -> bool:
    """Whether response fields with this lower-case name may be forwarded."""
    return name not in _HOP_BY_HOP and name not in _RESPONSE_ONLY


def to_upstream(fields: Fields, options: Collection[bytes]) -> bytes:
    """Serialize those fields of a request that are forwarded; `options` are those of its `Connection`."""
    return b"".join([_LINES_TO_UPSTREAM[field] for field in _without_nominated(fields, options)])


def to_client(fields: Fields, options: Collection[bytes]) -> bytes:
    """Serialize those fields of a response that are forwarded; `options` are those of its `Connection`."""
    return b"".join([_LINES_TO_CLIENT[field] for field in _without_nominated(fields, options)])


def request_to_upstream(request: Request) -> bytes:
    """`to_upstream`, computed once for each request."""
    lines = request.forwarded_lines
    if lines is None:
        lines = request.forwarded_lines = to_upstream(request.fields, request.connection_options)
    return lines


def response_to_client(response: Response) -> bytes:
    """`to_client`, computed once for each response."""
    lines = response.forwarded_lines
    if lines is None:
        lines = response.forwarded_lines = to_client(response.fields, response.connection_options)
    return lines


def trailers_to_upstream(trailers: Fields, routing_headers: Collection[bytes] = ()) -> bytes:
    """Serialize those trailers of a request that are forwarded: none by whose name a route may be chosen."""
    forwarded = [
        field
        for field in trailers
        if _NOT_IN_REQUEST_TRAILERS.match(field[0]) is None and field[0] not in routing_headers
    ]
    return to_upstream(forwarded, ())


def trailers_to_client(trailers: Fields) -> bytes:
    """Serialize those trailers of a response that are forwarded."""
    return to_client([field for field in trailers if _NOT_IN_RESPONSE_TRAILERS.match(field[0]) is None], ())


def _without_nominated(fields: Fields, options: Collection[bytes]) -> Fields:
    """Drop fields that `Connection` nominates as hop-by-hop (RFC 9110 section 7.6.1)."""
    if not options:
        return fields
    nominated = {option for option in options if _ALWAYS_END_TO_END.match(option) is None}
    return [field for field in fields if field[0] not in nominated]


def _is_short(key: bytes, _: bool) -> bool:
    return len(key) <= MAX_CACHED_BYTES


_IS_HOST = BoundedCache(lambda value: _HOST.match(value) is not None, _is_short)
_PASSES_TO_UPSTREAM = BoundedCache(passes_to_upstream, _is_short)
_PASSES_TO_CLIENT = BoundedCache(passes_to_client, _is_short)

# Serialized fields; empty for those that are not forwarded.
_LINES_TO_UPSTREAM = BoundedCache(
    lambda field: b"%b: %b\r\n" % field if _PASSES_TO_UPSTREAM[field[0]] else b"", is_cacheable
)
_LINES_TO_CLIENT = BoundedCache(
    lambda field: b"%b: %b\r\n" % field if _PASSES_TO_CLIENT[field[0]] else b"", is_cacheable
)
