"""Which URLs keys may be fetched from: https, or plain http within the machine or its private network."""

import ipaddress
from urllib.parse import urlsplit

#: Suffixes of names that only resolve in private networks (RFC 6761, RFC 6762, RFC 8375, and Kubernetes' services).
_PRIVATE_SUFFIXES = (".localhost", ".internal", ".local", ".home.arpa", ".svc", ".test")


def check_address(url: str, *, allow_insecure: bool = False) -> None:
    """Raise ValueError for a URL that keys must not come from.

    An attacker who can change keys in transit can sign tokens, so plain http is limited to loopback, private
    addresses and private names, unless the configuration allows it.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https address")
    if parts.username is not None or parts.fragment:
        raise ValueError(f"the address of {parts.hostname} must not have credentials or a fragment")
    if parts.scheme == "http" and not allow_insecure and not _is_private(parts.hostname):
        raise ValueError(f"keys from {parts.hostname} need https; plain http is only for private addresses")


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.lower().rstrip(".").endswith(_PRIVATE_SUFFIXES)
