"""Which header fields pass through, in either direction."""

import re
from collections.abc import Collection

from ostiary_gateway.http1.fields import Fields, is_cacheable
from ostiary_gateway.http1.memo import MAX_CACHED_BYTES, BoundedCache
from ostiary_gateway.http1.parser import Request, Response

# RFC 9110 section 7.6.1: these are between two neighbours.
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

# The gateway answers `Expect` itself; `Host`, and how long a body is, belong to the new message.
_REQUEST_ONLY = frozenset({b"host", b"expect", b"content-length"})
_RESPONSE_ONLY = frozenset({b"server", b"content-length", b"x-request-id"})

# What `Connection` cannot make a matter between neighbours: it would take away what was decided on.
_END_TO_END = rb"authorization|cookie|origin|range|cache-control|(?:content|if|sec)-.+"
_ALWAYS_END_TO_END = re.compile(rb"(?:" + _END_TO_END + rb")\Z")

# What is decided on before a body, and so does not come after it (RFC 9110 section 6.5.1).
_NO_TRAILERS_OF_REQUESTS = re.compile(rb"(?:" + _END_TO_END + rb"|referer|pragma|max-forwards|dpop|accept.*)\Z")
_NO_TRAILERS_OF_RESPONSES = re.compile(
    rb"(?:" + _END_TO_END + rb"|set-cookie2?|(?:access-control|cross-origin|proxy)-.+"
    rb"|age|allow|alt-svc|clear-site-data|date|expires|location|pragma|refresh|retry-after|vary|www-authenticate"
    rb"|strict-transport-security|(?:referrer|permissions|feature)-policy|x-(?:content-type|frame)-options|x-accel-.+)\Z"
)

# Field names of one spelling. Others ('_', '.') turn into these on their way into some servers' variables.
_PLAIN_NAME = re.compile(rb"[a-z0-9-]+\Z")

# What services behind gateways are used to believe about who is calling, how and from where, or to do instead of what
# the request line says. Nothing of it may come from outside.
#: How words begin that say who somebody is or what they may do, wherever they stand in a name that begins with `x-`.
_IDENTITY = (
    rb"user(?!-agent\Z)|login|auth(?!or)|oauth|sso|saml|oidc|scope|role|group|permission|privilege|admin|tenant"
    rb"|account|org(?:s|ani[sz]ation)?(?:-|\Z)|customer|member|email|mail\Z|identity|principal|subject|claim|jwt"
    rb"|id-token|assertion|impersonat|act-as|run-as|on-behalf-of|credential|consumer|cert|spiffe|internal"
    rb"|actor|caller|employee|(?:uid|upn|dn|cn)(?:-|\Z)"
)

#: How words begin, in such a place, that say where a request came from, and by what.
_ORIGIN = rb"real-?ip|client-?ip|client-?cert|remote|ip(?:-|\Z)|scheme\Z"

#: How whole names begin, with `x-` or without: the same, names of products that say it, and orders to a server.
_BEGINNINGS = (
    rb"forwarded|original|rewrite|request-id|ostiary|host|script-name|accel|envoy|auth(?!orization\Z)|sub"
    rb"|ms-client|amzn-oidc|goog-(?:auth|iap)|client(?!-version\Z)|ssl|tls|web-?auth|iv|sm|tailscale|cf|azure|arr-|shib|eppn"
    rb"|eduperson|vouch|pomerium|hasura|appengine|front-end-https|http-method|method|http-.*override"
)
_BELIEVED = re.compile(
    rb"(?:x-)?(?:" + _BEGINNINGS + rb"|" + _IDENTITY + rb"|" + _ORIGIN + rb")"
    rb"|x-(?:[a-z0-9]+-)+(?:" + _IDENTITY + rb"|" + _ORIGIN + rb")"
    rb"|proxy\Z|.*-client-?ip\Z|.*-connecting-ip\Z"
)

_HOST = re.compile(rb"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


def _is_kept(name: bytes, _: bool) -> bool:
    return len(name) <= MAX_CACHED_BYTES


def passes_to_upstream(name: bytes) -> bool:
    """Return whether a request's fields of this name, in lower case, go on at all."""
    return (
        name not in _HOP_BY_HOP
        and name not in _REQUEST_ONLY
        and _PLAIN_NAME.match(name) is not None
        and _BELIEVED.match(name) is None
    )


def _passes_to_client(name: bytes) -> bool:
    return name not in _HOP_BY_HOP and name not in _RESPONSE_ONLY


_PASSING_TO_UPSTREAM, _PASSING_TO_CLIENT = (
    BoundedCache(passes_to_upstream, _is_kept),
    BoundedCache(_passes_to_client, _is_kept),
)
_HOSTS = BoundedCache(lambda value: _HOST.match(value) is not None, _is_kept)

#: Fields as they are written; nothing for those that do not pass.
_LINES_TO_UPSTREAM = BoundedCache(
    lambda field: b"%b: %b\r\n" % field if _PASSING_TO_UPSTREAM[field[0]] else b"", is_cacheable
)
_LINES_TO_CLIENT = BoundedCache(
    lambda field: b"%b: %b\r\n" % field if _PASSING_TO_CLIENT[field[0]] else b"", is_cacheable
)


def is_host(value: bytes) -> bool:
    """Return whether a `Host` field has a host in it (RFC 9112 section 3.2)."""
    return _HOSTS[value]


def to_upstream(fields: Fields, options: Collection[bytes]) -> bytes:
    """Return those of a request's fields that go on: the caller's own, and nothing that services believe of gateways.

    `options` are those of `Connection`.
    """
    return b"".join([_LINES_TO_UPSTREAM[field] for field in _without_nominated(fields, options)])


def to_client(fields: Fields, options: Collection[bytes]) -> bytes:
    """Return those of a response's fields that go on."""
    return b"".join([_LINES_TO_CLIENT[field] for field in _without_nominated(fields, options)])


def lines_of_request(request: Request) -> bytes:
    """Return what `to_upstream` does for a request, worked out once."""
    lines = request.forwarded_lines
    if lines is None:
        lines = request.forwarded_lines = to_upstream(request.fields, request.connection_options)
    return lines


def lines_of_response(response: Response) -> bytes:
    """Return what `to_client` does for a response, worked out once."""
    lines = response.forwarded_lines
    if lines is None:
        lines = response.forwarded_lines = to_client(response.fields, response.connection_options)
    return lines


def trailers_to_upstream(trailers: Fields, routing_headers: Collection[bytes] = ()) -> bytes:
    """Return the fields after a request's body that go on.

    `routing_headers` are those by which routes are chosen.
    """
    passing = [
        field
        for field in trailers
        if _NO_TRAILERS_OF_REQUESTS.match(field[0]) is None and field[0] not in routing_headers
    ]
    return to_upstream(passing, ())


def trailers_to_client(trailers: Fields) -> bytes:
    """Return the fields after a response's body that go on."""
    return to_client([field for field in trailers if _NO_TRAILERS_OF_RESPONSES.match(field[0]) is None], ())


def _without_nominated(fields: Fields, options: Collection[bytes]) -> Fields:
    """Drop what `Connection` says is between neighbours."""
    if not options:
        return fields
    nominated = {option for option in options if _ALWAYS_END_TO_END.match(option) is None}
    return [field for field in fields if field[0] not in nominated]
