"""Which header fields pass through, in either direction."""

import re
from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1: these are between two neighbours. `Expect` is answered by the server in
# front, `Host` and the lengths belong to the new message; `Date` and `Server` are the gateway's own.
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
_REQUEST_ONLY = frozenset({b"host", b"expect"})
_RESPONSE_ONLY = frozenset({b"date", b"server"})

# What services behind gateways are used to believe. Nothing of it may come from outside, in any
# spelling: some servers read '_' as '-'.
_IDENTITY = re.compile(
    rb"(?:x-)?(?:forwarded|real-ip|user|auth|authenticated|remote|client|subject|scopes?|roles?|groups?|email|sub"
    rb"|ostiary|request-id|original|rewrite)(?:-.*)?\Z"
)
_HOST = re.compile(rb"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


class InvalidHost(Exception):
    """Not exactly one `Host` field with a host in it (RFC 9112 section 3.2)."""


def host(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the request's host. Raises InvalidHost."""
    values = [value for name, value in headers if name == b"host"]
    if len(values) != 1 or _HOST.match(values[0]) is None:
        raise InvalidHost
    return values[0]


def to_upstream(headers: RawHeaders, *, client: str, scheme: str, request_id: str) -> RawHeaders:
    """Return a request's fields for the upstream: the caller's own, and what the gateway knows of the caller."""
    passed = _end_to_end(headers, _REQUEST_ONLY)
    return [
        *((name, value) for name, value in passed if not _claims_identity(name)),
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-host", host(headers)),
        (b"x-request-id", request_id.encode()),
    ]


def to_client(headers: RawHeaders) -> RawHeaders:
    """Return a response's fields for the client."""
    return _end_to_end([(name.lower(), value) for name, value in headers], _RESPONSE_ONLY)


def _end_to_end(headers: RawHeaders, own: frozenset[bytes]) -> RawHeaders:
    """Drop what is between neighbours, also what `Connection` names as such, and what the gateway says itself."""
    nominated = {
        option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    }
    dropped = _HOP_BY_HOP | own | nominated
    return [(name, value) for name, value in headers if name not in dropped]


def _claims_identity(name: bytes) -> bool:
    name = name.replace(b"_", b"-")
    return name != b"user-agent" and _IDENTITY.match(name) is not None
