"""Hosts: one spelling of each, and which of them are the gateway's.

Services build links and redirects from the host that a client asked for, and check it. So they get it, in one spelling,
and only if somebody has configured it: the issuer's host, the `hosts` of routes, `hosts_internal`, and loopback names.
Ports are not compared: behind a published port or a proxy, the gateway does not know its own.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import idna

from ostiary_chassis.urls import DEFAULT_PORTS, MAX_PORT
from ostiary_gateway.http1.bounded_cache import BoundedCache

#: Characters of a name (RFC 1035 section 3.1).
MAX_NAME = 253

# RFC 3986 section 3.2.2, without percent-encoding, of which no host name has any. Clients without IDNA send UTF-8.
_AUTHORITY = re.compile(
    rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._\x80-\xff-]{1,%d})(?::([0-9]{1,5}))?\Z" % (MAX_NAME + 1)
)
# With underscores, which no host on the internet has, but services on container networks.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}\Z")


class InvalidHost(ValueError):
    """No host, or no port (RFC 9110 section 7.2)."""


class UnknownHost(Exception):
    """A host that nobody has configured."""


class KnownHost:
    """A host of the gateway's, as a request names it."""

    __slots__ = ("_authorities", "own_origin", "scheme")

    def __init__(self, name: str, port: int | None, scheme: str, own_origin: bytes) -> None:
        self._authorities = {each.encode(): authority(name, port, each) for each in DEFAULT_PORTS}
        #: The scheme that clients use, unless a proxy tells another one.
        self.scheme = scheme.encode()
        #: The origin of pages that the gateway serves under this host (RFC 6454 section 6.2).
        self.own_origin = own_origin

    def authority(self, scheme: bytes) -> bytes:
        """Return the name, and the port if it is not that of the scheme."""
        return self._authorities[scheme]


class KnownHosts:
    """The hosts that have been configured."""

    def __init__(self, issuer: str, public: Iterable[str], internal: Iterable[str]) -> None:
        """`issuer` is the gateway's public URL, `public` are the hosts of routes. Names may begin with `*.`."""
        parts = urlsplit(issuer)
        name = normalise_name(parts.hostname or "")
        self._scheme = parts.scheme
        #: The value of `Host` that stands for the issuer.
        self.issuer_host = authority(name, parts.port, parts.scheme)
        self._public = _Names({name, *public})
        self._internal = _Names(internal)
        self._found: BoundedCache[bytes, KnownHost] = BoundedCache(self._find)

    def find(self, value: bytes) -> KnownHost:
        """Return the host that a value of `Host` names. Raises InvalidHost or UnknownHost."""
        return self._found[value]

    def _find(self, value: bytes) -> KnownHost:
        name, port = parse_authority(value)
        if name in self._public:
            return KnownHost(name, port, self._scheme, self._origin(authority(name, port, self._scheme)))
        if is_loopback(name):
            # A proxy would have another name: so it is the gateway's own port, which has no TLS.
            return KnownHost(name, port, "http", self._origin(authority(name, port, self._scheme)))
        if name in self._internal:
            return KnownHost(name, port, "http", self._origin(self.issuer_host))
        raise UnknownHost

    def _origin(self, host: bytes) -> bytes:
        return b"%b://%b" % (self._scheme.encode(), host)


class _Names:
    """Names, and wildcards for all names below one."""

    def __init__(self, names: Iterable[str]) -> None:
        known = frozenset(names)
        self._names = frozenset(name for name in known if not name.startswith("*."))
        self._suffixes = tuple(name.removeprefix("*") for name in known - self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names or name.endswith(self._suffixes)


def parse_authority(value: bytes) -> tuple[str, int | None]:
    """Return the normalised name and the port. Raises InvalidHost."""
    match = _AUTHORITY.match(value)
    if match is None:
        raise InvalidHost("must be a host name, with or without a port")
    port = int(match[2]) if match[2] else None
    if port is not None and not 1 <= port <= MAX_PORT:
        raise InvalidHost("must have a port from 1 to 65535, or none")
    try:
        return normalise_name(match[1].decode()), port
    except UnicodeDecodeError:
        raise InvalidHost("must be a host name") from None


def normalise_name(name: str) -> str:
    """Return the one spelling of a name or IP address: lower case, A-labels, no final dot. Raises InvalidHost."""
    if name.startswith("[") or ":" in name:
        try:
            return f"[{IPv6Address(name.strip('[]')).compressed}]"
        except ValueError:
            raise InvalidHost("must be an IPv6 address in brackets") from None
    name = (name if name.isascii() else _to_ascii(name)).lower().removesuffix(".")
    if len(name) > MAX_NAME or not all(_LABEL.match(label) for label in name.split(".")):
        raise InvalidHost("must be a host name")
    return name


def is_loopback(name: str) -> bool:
    """Whether a normalised name is of this machine (RFC 6761 section 6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def authority(name: str, port: int | None, scheme: str) -> bytes:
    """Return name and port as `Host` has them, without the port if it is that of the scheme."""
    return (name if port is None or port == DEFAULT_PORTS[scheme] else f"{name}:{port}").encode()


def _to_ascii(name: str) -> str:
    """Return a name with A-labels (UTS 46, as browsers do it). Raises InvalidHost."""
    try:
        labels = idna.uts46_remap(name, std3_rules=False).split(".")
        return ".".join(label if label.isascii() else idna.alabel(label).decode() for label in labels)
    except UnicodeError:  # all errors of idna, too
        raise InvalidHost("must be a host name") from None
