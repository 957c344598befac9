"""Which header fields pass through, in either direction."""

import re
from collections.abc import Iterable

from ostiary.feed import POSITION_HEADER

RawHeaders = list[tuple[bytes, bytes]]

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

# `Expect` is answered by the server in front, `Host` belongs to the new message; `Date` and
# `Server` are the gateway's own.
_REQUEST_ONLY = frozenset({b"host", b"expect"})
_RESPONSE_ONLY = frozenset({b"date", b"server"})

# What `Connection` cannot make a matter between neighbours: it would take away what was decided on.
_ALWAYS_END_TO_END = re.compile(rb"(?:authorization|cookie|range|cache-control|(?:content|if)-.+)\Z")

# Field names of one spelling. Others ('_', '.') turn into these on their way into some servers' variables.
_PLAIN_NAME = re.compile(rb"[a-z0-9-]+\Z")

# What services behind gateways are used to believe about who is calling, or to do instead of what
# the request line says. Nothing of it may come from outside.
_BELIEVED = re.compile(
    rb"(?:x-)?(?:"
    rb"forwarded|real-ip|original|rewrite|request-id|ostiary|host|script-name|accel|envoy"
    rb"|user(?!-agent\Z)|auth(?!orization\Z)|remote|subject|sub|scope|role|group|permission|admin|tenant|account"
    rb"|email|identity|principal|claims?|jwt|impersonate|spiffe|consumer|credential|ms-client|amzn-oidc|goog-auth"
    rb"|client|ssl|web-?auth|iv|sm|oidc|tailscale|cf|http-method|method|http-.*override"
    rb")|proxy\Z|.*-client-ip\Z|.*-connecting-ip\Z"
)

_POSITION = POSITION_HEADER.lower().encode()

_HOST = re.compile(rb"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")

#: Characters that may not stand in a field value (RFC 9110 section 5.5).
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

#: Responses without a body, whose length is of the body that there would be (RFC 9110 section 8.6).
_BODILESS = frozenset({204, 304})


class InvalidHost(Exception):
    """Not exactly one `Host` field with a host in it (RFC 9112 section 3.2)."""


class InvalidResponse(Exception):
    """A response that cannot be passed on."""


def host(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the request's host. Raises InvalidHost."""
    values = [value.strip(b" \t") for name, value in headers if name == b"host"]
    if len(values) != 1 or _HOST.match(values[0]) is None:
        raise InvalidHost
    return values[0]


def to_upstream(
    headers: RawHeaders, *, client: str, scheme: str, request_id: str, position: str | None = None
) -> RawHeaders:
    """Return a request's fields for the upstream: the caller's own, and what the gateway knows of the caller.

    `position` says which revocations the gateway has considered; who comes after it must not know less.
    """
    passed = _end_to_end(headers, _REQUEST_ONLY)
    return [
        *((name, value.strip(b" \t")) for name, value in passed if _PLAIN_NAME.match(name) and not _is_believed(name)),
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-host", host(headers)),
        (b"x-request-id", request_id.encode()),
        *([(_POSITION, position.encode())] if position is not None else []),
    ]


def to_client(status: int, headers: RawHeaders) -> RawHeaders:
    """Return a response's fields for the client. Raises InvalidResponse."""
    if not 200 <= status <= 599 or any(_CONTROL.search(value) for _, value in headers):  # noqa: PLR2004 - RFC 9110 15
        raise InvalidResponse
    lowered = [(name.lower(), value) for name, value in headers]
    # With both, the chunks say how long the body is (RFC 9112 section 6.3).
    drops_length = status in _BODILESS or any(name == b"transfer-encoding" for name, _ in lowered)
    passed = _end_to_end(lowered, _RESPONSE_ONLY)
    return [field for field in passed if not (drops_length and field[0] == b"content-length")]


def _end_to_end(headers: RawHeaders, own: frozenset[bytes]) -> RawHeaders:
    """Drop what is between neighbours, also what `Connection` names as such, and what the gateway says itself."""
    nominated = {
        option
        for name, value in headers
        if name == b"connection"
        for option in value.lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
        if _ALWAYS_END_TO_END.match(option) is None
    }
    dropped = _HOP_BY_HOP | own | nominated
    return [(name, value) for name, value in headers if name not in dropped]


def _is_believed(name: bytes) -> bool:
    return _BELIEVED.match(name) is not None
