"""Client addresses behind proxies, whose header fields count only if they are trusted."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import BeforeValidator

#: Characters of `X-Forwarded-For` that are parsed, from its end: some six addresses.
MAX_FORWARDED_CHARACTERS = 256

#: Bits of an IPv6 address that distinguish clients: a household or machine has all addresses with the same ones.
_IPV6_SOURCE_BITS = 64

# Some proxies append the port, with brackets around IPv6 addresses.
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?\Z")

#: Parsed addresses in the cache; clients send many requests.
_CACHED_ADDRESSES = 4096


def _networks(value: object) -> object:
    """Parse networks separated by commas."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(item.strip()) for item in value.split(",") if item.strip())
    except ValueError:
        raise ValueError("must be addresses or networks separated by commas, such as 10.0.0.0/8,127.0.0.1") from None


#: IP networks.
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)]


class TrustedProxies:
    """The proxies whose `X-Forwarded-For` is trusted; none by default."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = networks
        self._source = lru_cache(_CACHED_ADDRESSES)(self._find_source)
        self.trusts = lru_cache(_CACHED_ADDRESSES)(self._trusts)

    def source(self, peer: str, forwarded: Sequence[str]) -> str | None:
        """Return the client's address: the last one before the trusted proxies.

        `peer` is the address of the connection, `forwarded` the values of all `X-Forwarded-For` fields.
        """
        value = ",".join(forwarded)[-MAX_FORWARDED_CHARACTERS:] if self._networks else ""
        return self._source(peer, value)

    def _trusts(self, peer: str) -> bool:
        address = _address(peer)
        return address is not None and self._is_trusted(address)

    def _find_source(self, peer: str, forwarded: str) -> str | None:
        address, hops = _address(peer), forwarded.split(",")
        while address is not None and hops and self._is_trusted(address):
            previous = _address(hops.pop().strip())
            if previous is None:
                break
            address = previous
        return str(address) if address else None

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(_CACHED_ADDRESSES)
def source_of(address: str) -> str:
    """Return what identifies a client in rate limits: an IPv4 address, or the /64 of an IPv6 address."""
    found = _address(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, _IPV6_SOURCE_BITS), strict=False))
    return str(found) if found is not None else address


def _address(text: str) -> IPv4Address | IPv6Address | None:
    with_port = _WITH_PORT.match(text)
    try:
        address = ip_address(with_port[1] or with_port[2] if with_port is not None else text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    # Without its zone, which is local to this machine and of any length.
    return address.ipv4_mapped or IPv6Address(address.packed)
