"""Where a request came from, if it came through proxies: what they say counts only if they are trusted."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import BeforeValidator

#: Characters of `X-Forwarded-For` that are looked at: some six addresses.
MAX_FORWARDED_CHARACTERS = 256

#: Bits of an IPv6 address that tell callers apart: one household or machine has all addresses that begin with them.
_IPV6_SOURCE_BITS = 64

# As some proxies say it: with the port, and then with brackets around the colons of IPv6.
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?\Z")

#: Callers whose address is remembered; the same ones call again and again.
_REMEMBERED_SOURCES = 4096


def _networks(value: object) -> object:
    """Read networks divided by commas."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(item.strip()) for item in value.split(",") if item.strip())
    except ValueError:
        raise ValueError("must be addresses or networks with commas between, as in 10.0.0.0/8,127.0.0.1") from None


#: IP networks.
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)]


class TrustedProxies:
    """The proxies whose word counts; none by default."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        """Trust whoever has an address in these networks."""
        self._networks = networks
        self._source = lru_cache(_REMEMBERED_SOURCES)(self._find_source)
        self.trusts = lru_cache(_REMEMBERED_SOURCES)(self._trusts)

    def source(self, peer: str, forwarded: Sequence[str]) -> str | None:
        """Return the address that a request came from: the first one that is no trusted proxy's.

        `peer` is the address of the connection, `forwarded` the values of all `X-Forwarded-For` fields.
        """
        said = ",".join(forwarded)[-MAX_FORWARDED_CHARACTERS:] if self._networks else ""
        return self._source(peer, said)

    def _trusts(self, peer: str) -> bool:
        """Return whether an address is a trusted proxy's."""
        address = _address(peer)
        return address is not None and self._is_trusted(address)

    def _find_source(self, peer: str, forwarded: str) -> str | None:
        address, before = _address(peer), forwarded.split(",")
        while address is not None and before and self._is_trusted(address):
            previous = _address(before.pop().strip())
            if previous is None:
                break
            address = previous
        return str(address) if address else None

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(_REMEMBERED_SOURCES)
def source_of(address: str) -> str:
    """Return what counts as one caller where callers are counted: an IPv4 address, or the /64 of an IPv6 address."""
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
    # Without its zone, which is this machine's own business and as long as one likes.
    return address.ipv4_mapped or IPv6Address(address.packed)
