"""URLs in settings and files. An error says what is wrong with one, but does not repeat it: it may hold a password."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

MAX_PORT = 65_535

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# RFC 3986 appendix B, with the authority in its parts. All texts match but those without a scheme.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^/?#]*)@)?(?P<host>\[[^/?#\]]*\]|[^/?#]*?)(?::(?P<port>[^/?#:]*))?"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL,
)
_UNSEEN = re.compile(r"[\x00-\x20\x7f-\xa0\u2000-\u200f\u2028-\u202f\ufeff]")

# With underscores, which no host on the internet has, but services on container networks (`my_service`).
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?!.*[^.]{{64}}){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class UrlKind:
    """What URLs of one kind look like."""

    schemes: tuple[str, ...]
    #: The beginning of errors, after "must be".
    shape: str
    #: Which of `user`, `path` and `query` there may be.
    parts: Collection[str] = ()

    def check(self, url: str) -> str:
        """Return a valid URL. Raises ValueError."""
        fault = self._fault(url)
        if fault:
            raise ValueError(f"must be {self.shape}; {fault}")
        return url

    def _fault(self, url: str) -> str:
        """Return what is wrong; "" if nothing is."""
        if _UNSEEN.search(url):
            return "remove spaces and characters that cannot be seen"
        match = _URL.fullmatch(url)
        if match is None:
            return f"{self.schemes[0]}:// is missing at the start"
        return (
            self._scheme_fault(match["scheme"]) or self._part_fault(match) or _host_fault(match["host"], match["port"])
        )

    def _scheme_fault(self, scheme: str) -> str:
        if scheme in self.schemes:
            return ""
        return "write the scheme in lower case" if scheme.lower() in self.schemes else "this scheme is not supported"

    def _part_fault(self, match: re.Match[str]) -> str:
        faults = {
            "user": "remove user and password",
            "path": "remove the slash at the end" if match["path"] == "/" else "remove the path",
            "query": "remove the query",
            "fragment": "remove the fragment",
        }
        return next((fault for part, fault in faults.items() if match[part] is not None and part not in self.parts), "")


def _host_fault(host: str, port: str | None) -> str:
    if host.startswith("["):
        return _ipv6_fault(host[1:-1]) or _port_fault(port)
    if ":" in host:
        return "write one colon and a port" if _ipv6_fault(f"{host}:{port}") else "put the IPv6 address in brackets"
    checks = (
        (host != "", "the host is missing"),
        (host.isascii(), "write the host in ASCII, as clients send it (xn--...)"),
        (not host.endswith("."), "remove the dot at the end of the host"),
        (_HOST.fullmatch(host) is not None, "a host has letters, digits, '-', '_' and '.', and parts of 63 at most"),
    )
    return next((fault for is_good, fault in checks if not is_good), "") or _port_fault(port)


def _ipv6_fault(address: str) -> str:
    try:
        IPv6Address(address)
    except AddressValueError:
        return "what is in brackets is no IPv6 address"
    # A zone has a meaning on one machine only, and cannot be in `Host`.
    return "remove the zone of the IPv6 address" if "%" in address else ""


def _port_fault(port: str | None) -> str:
    if port is None or (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= MAX_PORT):
        return ""
    return f"the port must be a number from 1 to {MAX_PORT}"


_BASE = UrlKind(("http", "https"), "http:// or https:// and a host without a path, such as http://localhost:8080")


def _check_base_url(value: object) -> object:
    return _BASE.check(value) if isinstance(value, str) else value


def split_list(value: object) -> object:
    """Split a text at its commas, as settings list several values; leave other values as they are."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


#: The address of a service: scheme, host and port.
BaseUrl = Annotated[str, BeforeValidator(_check_base_url)]

#: The addresses of a service's replicas, in settings separated by commas.
BaseUrls = Annotated[tuple[BaseUrl, ...], BeforeValidator(split_list), Field(min_length=1, max_length=64)]
