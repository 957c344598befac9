"""What the gateway tells a service about the client and what it asked for: `X-Forwarded-*`, `Forwarded` and `Via`.

`X-Forwarded-For` and `Forwarded` name the client alone, and not the proxies before the gateway: a service then trusts
the gateway and needs to know of no other hop. They never repeat what a client claims.
"""

import re

from ostiary_gateway.http1.bounded_cache import BoundedCache

#: The gateway in `Via` (RFC 9110 section 7.6.3): a pseudonym, as its host is nobody's business.
PSEUDONYM = "ostiary"

# RFC 9110 section 5.6.2: other values of parameters are quoted.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


def via(*, is_http11: bool) -> bytes:
    """Return the field that says how a message was received; it comes after those that the message had."""
    return _VIA_11 if is_http11 else _VIA_10


def forwarded_fields(client: str, scheme: bytes, host: bytes, is_http11: bool) -> bytes:
    """Serialize the fields about a request from the address `client`, which may be `unknown`."""
    return _FORWARDED[client, scheme, host, is_http11]


def stripped_prefix(public: bytes, upstream: bytes) -> bytes:
    """Return what a rewrite takes from the start of a path; b"" if it does something else.

    With two slashes at its start, services that put it before their own paths would lead to another host.
    """
    if public.startswith(b"//"):
        return b""
    if upstream == b"/":
        return public.removesuffix(b"/")
    return public.removesuffix(upstream) if public.endswith(upstream) else b""


def _serialize(key: tuple[str, bytes, bytes, bool]) -> bytes:
    client, scheme, host, is_http11 = key
    own = client.encode(), scheme, host, _element(client, scheme, host), via(is_http11=is_http11)
    return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\nforwarded: %b\r\n%b" % own


def _element(client: str, scheme: bytes, host: bytes) -> bytes:
    """Return an element of `Forwarded` (RFC 7239 section 4)."""
    # IPv6 addresses are in brackets (section 6), without a zone, which is this machine's own.
    node = f"[{client.partition('%')[0]}]" if ":" in client else client
    return f"for={_value(node)};host={_value(host.decode())};proto={scheme.decode()}".encode()


def _value(text: str) -> str:
    return text if _TOKEN.match(text) else f'"{text}"'


def _via(version: str) -> bytes:
    return f"via: {version} {PSEUDONYM}\r\n".encode()


_VIA_10, _VIA_11 = _via("1.0"), _via("1.1")

_FORWARDED = BoundedCache(_serialize)
