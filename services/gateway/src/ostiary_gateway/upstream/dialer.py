"""Opens connections to one address: by name, IP address or unix socket, with or without TLS."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from ostiary_chassis.threads import in_thread
from ostiary_chassis.urls import DEFAULT_PORTS
from ostiary_gateway.upstream import tls

P = TypeVar("P", bound=asyncio.BaseProtocol)

#: The value of the `Host` field for a unix socket.
UNIX_HOST = b"localhost"

#: What `Dialer.dial` raises if it does not succeed.
DIAL_ERRORS = (OSError, TimeoutError)


class Dialer:
    """Opens connections to the address in a URL, `http:`, `https:` or `unix:`."""

    def __init__(self, url: str, tls_context: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        #: The value of the `Host` field.
        self.host = parts.netloc.encode() or UNIX_HOST
        self._socket_path = parts.path if parts.scheme == "unix" else None
        self._name = parts.hostname or ""
        self._port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
        self._tls = tls_context if parts.scheme == "https" else None
        #: The look-up under way: a name server that does not answer holds one thread, however many wait for it.
        self._look_up: asyncio.Future[list[str]] | None = None
        #: The IP address that the last connection went to.
        self._last_good = ""

    async def dial(self, protocol: Callable[[], P], seconds: float) -> tuple[asyncio.Transport, P]:
        """Open a connection within `seconds`. Raises one of DIAL_ERRORS."""
        async with asyncio.timeout(seconds):
            if self._socket_path is not None:
                return await asyncio.get_running_loop().create_unix_connection(protocol, self._socket_path)
            *others, last = await self._resolve()
            for address in others:
                # An address that does not answer must not take the time of the others.
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(seconds / (len(others) + 1)):
                        return await self._connect(protocol, address)
            return await self._connect(protocol, last)

    async def _connect(self, protocol: Callable[[], P], address: str) -> tuple[asyncio.Transport, P]:
        if self._tls is not None:
            connected = await tls.connect(protocol, address, self._port, self._tls, self._name)
        else:
            connected = await asyncio.get_running_loop().create_connection(protocol, address, self._port)
        self._last_good = address
        return connected

    async def _resolve(self) -> list[str]:
        """Return the name's IP addresses, the last good one first. Raises OSError."""
        if _is_ip_address(self._name):
            return [self._name]
        if self._look_up is None:
            self._look_up = in_thread(_addresses_of, self._name, self._port)
            self._look_up.add_done_callback(self._end_look_up)
        addresses = await asyncio.shield(self._look_up)
        return sorted(addresses, key=lambda address: address != self._last_good)

    def _end_look_up(self, look_up: "asyncio.Future[list[str]]") -> None:
        self._look_up = None
        if not look_up.cancelled():
            # All waiters may have timed out; an exception that nobody retrieves would be logged.
            look_up.exception()


def _addresses_of(name: str, port: int) -> list[str]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if not addresses:
        raise OSError("the name has no address")
    return addresses


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
