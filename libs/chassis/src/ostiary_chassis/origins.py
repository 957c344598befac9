"""Origins of web pages and apps (RFC 6454 section 6.2), as `cors` allows them.

    https://app.example.com      exactly this origin; ports other than the scheme's own are part of it
    https://*.example.com        all names below example.com, with one label or more, but not example.com itself
    http://localhost:*           any port, or none
    capacitor://localhost        apps, extensions and others that have schemes of their own
    moz-extension://*            the same, whatever the host is: it differs for each installation
    null, file://                sandboxed frames and local files
    *                            everybody

Pages of the last four kinds may be anybody's: they never get credentials.
"""

import re
from collections.abc import Collection
from ipaddress import AddressValueError, IPv6Address

import idna

from ostiary_chassis.urls import DEFAULT_PORTS, MAX_PORT

#: Schemes whose origins have a domain name or an address, and their default ports, which browsers leave out.
_DEFAULT_PORTS = {
    name: str(port) for scheme, port in DEFAULT_PORTS.items() for name in (scheme, scheme.replace("http", "ws"))
}

#: Characters of an origin that patterns are compared with: no name has more than 253.
_MAX_CHARACTERS = 512

#: Origins that name nobody.
_ANYBODY = frozenset({"*", "null", "file://"})

_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@]*?)(?::([0-9]*|\*))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_OTHER_HOST = re.compile(r"\*|[a-z0-9._-]+")

#: For the JSON Schema: what all origins look like, roughly.
SCHEMA_PATTERN = r"^(\*|null|file://|[a-z][a-z0-9+.-]*://[a-z0-9_.:*\[\]-]+)$"


def check_origin(text: str) -> str:
    """Return a valid origin. Raises ValueError, which says what is wrong."""
    if text in _ANYBODY:
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(_fault(text))
    if text != text.lower():
        raise ValueError(f"must be in lower case: {text.lower()}")
    _check_parts(text, match[1], match[2], match[3])
    return text


def names_somebody(origin: str) -> bool:
    """Return whether a valid origin, or pattern, is that of pages whose owner is known."""
    return origin not in _ANYBODY and not _is_any_host(origin)


def check_trusted(origin: str) -> str:
    """Return a valid origin, or pattern, whose pages may use sessions. Raises ValueError."""
    if not names_somebody(check_origin(origin)):
        raise ValueError("must be the origin of known pages, such as https://app.example.com: these may be anybody's")
    return origin


class OriginMatcher:
    """Compares origins with a list of valid origins and patterns."""

    def __init__(self, origins: Collection[str]) -> None:
        self._exact = frozenset(origin for origin in origins if "*" not in origin)
        patterns = [_pattern(origin) for origin in origins if "*" in origin and origin != "*"]
        self._patterns = re.compile("|".join(patterns)) if patterns else None

    def matches(self, origin: str) -> bool:
        """Return whether an origin, in lower case, is on the list."""
        if origin in self._exact:
            return True
        return (
            self._patterns is not None
            and len(origin) <= _MAX_CHARACTERS
            and self._patterns.fullmatch(origin) is not None
        )

    def covers(self, origin: str) -> bool:
        """Return whether all that a valid origin, or pattern, stands for is on the list."""
        if "*" not in origin:
            return self.matches(origin)
        patterns = self._patterns
        return patterns is not None and all(patterns.fullmatch(each) is not None for each in _examples(origin))


def _check_parts(text: str, scheme: str, host: str, port: str | None) -> None:
    if not host.isascii():
        raise ValueError(_name_in_ascii(scheme, host))
    if port is not None and not _is_port(port):
        raise ValueError("must have a port from 1 to 65535, or ':*' for any port")
    if port is not None and port == _DEFAULT_PORTS.get(scheme):
        raise ValueError(f"must be without the scheme's own port, as browsers send it: {scheme}://{host}")
    if scheme in {"ws", "wss"}:
        raise ValueError(f"must have the page's scheme, not that of its WebSocket: {text.replace('ws', 'http', 1)}")
    if scheme in _DEFAULT_PORTS and not _is_host(host):
        raise ValueError(
            "must have a host name or an address, such as https://app.example.com or https://*.example.com"
        )
    if scheme not in _DEFAULT_PORTS and _OTHER_HOST.fullmatch(host) is None:
        raise ValueError(f"must have a host after '{scheme}://', or '*' for any")


def _fault(text: str) -> str:
    """Say why a text is no origin."""
    scheme, separator, rest = text.lower().partition("://")
    if not separator or not scheme:
        return "must be an origin with its scheme, such as https://app.example.com, or '*' for all"
    authority = re.split("[/?#]", rest)[0]
    if "@" in authority:
        return "must be without a user name"
    if rest != authority:
        what = "trailing slash" if rest == f"{authority}/" else "path"
        return f"must be without a {what}: {scheme}://{authority}"
    return "must be an origin, such as https://app.example.com"


def _name_in_ascii(scheme: str, host: str) -> str:
    prefix = "*." if host.startswith("*.") else ""
    try:
        # As browsers do it (UTS 46).
        name = idna.encode(host.removeprefix(prefix), uts46=True).decode()
    except UnicodeError:  # all errors of idna, too
        return "must have the host in ASCII"
    return f"must have the host in ASCII: {scheme}://{prefix}{name}"


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            # The form that browsers send.
            return str(IPv6Address(host[1:-1])) == host[1:-1]
        except AddressValueError:
            return False
    return _HOST.fullmatch(host) is not None


def _is_port(port: str) -> bool:
    return port == "*" or (port.isdigit() and not port.startswith("0") and int(port) <= MAX_PORT)


def _examples(pattern: str) -> tuple[str, str]:
    """Return two of the origins that a pattern stands for: other patterns that match both match all of them."""
    start = pattern.removesuffix(":*")
    example = start.replace("*", "x", 1)
    return example, f"{example}:1" if start != pattern else example


def _is_any_host(origin: str) -> bool:
    return origin.partition("://")[2].partition(":")[0] == "*"


def _pattern(origin: str) -> str:
    pattern = re.escape(origin)
    if pattern.endswith(re.escape(":*")):
        pattern = pattern.removesuffix(re.escape(":*")) + "(?::[0-9]{1,5})?"
    pattern = pattern.replace(re.escape("*."), rf"(?:{_LABEL}\.)+", 1)
    return pattern.replace(re.escape("*"), "[a-z0-9._-]+", 1)
