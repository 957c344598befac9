"""Opens connections to one address: by name, IP address or unix socket, with or without TLS."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from ostiary_chassis.urls import DEFAULT_PORTS
from ostiary_gateway.upstream import tls
from ostiary_gateway.upstream.name import Name

P = TypeVar("P", bound=asyncio.BaseProtocol)

#: The value of the `Host` field for a unix socket.
UNIX_HOST = b"localhost"

#: What `Dialer.dial` raises if it does not succeed.
DIAL_ERRORS = (OSError, TimeoutError)


def name_in(url: str) -> Name | None:
    """Return the host name in a URL, None if it has an IP address or the path of a socket."""
    parts = urlsplit(url)
    if not parts.hostname or _is_ip_address(parts.hostname):
        return None
    return Name(parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme])


class Dialer:
    """Opens connections to the address in a URL, `http:`, `https:` or `unix:`."""

    def __init__(
        self, url: str, tls_context: ssl.SSLContext | None, name: Name | None = None, address: str = ""
    ) -> None:
        """`name` is the host name in the URL if it has one, and `address` the one of its IP addresses to connect to.

        Without `address`, connections go to the first one that takes them.
        """
        parts = urlsplit(url)
        #: Where the connections go, for logs.
        self.address = f"{url} ({address})" if address else url
        #: The value of the `Host` field.
        self.host = parts.netloc.encode() or UNIX_HOST
        self._socket_path = parts.path if parts.scheme == "unix" else None
        self._server_name = parts.hostname or ""
        self._port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
        self._tls = tls_context if parts.scheme == "https" else None
        self._name = name
        self._ip_address = address

    async def dial(self, protocol: Callable[[], P], seconds: float) -> tuple[asyncio.Transport, P]:
        """Open a connection within `seconds`. Raises one of DIAL_ERRORS."""
        async with asyncio.timeout(seconds):
            if self._socket_path is not None:
                return await asyncio.get_running_loop().create_unix_connection(protocol, self._socket_path)
            if self._name is None:
                return await self._connect(protocol, self._server_name)
            if self._ip_address:
                try:
                    return await self._connect(protocol, self._ip_address)
                except OSError:
                    if self._ip_address in await self._name.look_up():
                        raise
                # The name has other addresses by now, as after a restart in another container.
            return await self._connect_to_any(protocol, await self._name.look_up(), seconds)

    async def _connect_to_any(
        self, protocol: Callable[[], P], addresses: Sequence[str], seconds: float
    ) -> tuple[asyncio.Transport, P]:
        *others, last = addresses
        for address in others:
            # An address that does not answer must not take the time of the others.
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(seconds / len(addresses)):
                    return await self._connect(protocol, address)
        return await self._connect(protocol, last)

    async def _connect(self, protocol: Callable[[], P], address: str) -> tuple[asyncio.Transport, P]:
        if self._tls is not None:
            return await tls.connect(protocol, address, self._port, self._tls, self._server_name)
        return await asyncio.get_running_loop().create_connection(protocol, address, self._port)


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
