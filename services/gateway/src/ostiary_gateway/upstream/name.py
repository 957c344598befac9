"""A host name and its IP addresses."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from ostiary_chassis.threads import in_thread


class Name:
    """A host name, looked up in a thread: once for all who wait for the answer."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        #: The addresses of the last look-up that succeeded; none before.
        self.addresses: Sequence[str] = ()
        #: The look-up under way: a name server that does not answer holds one thread, however many wait for it.
        self._look_up: asyncio.Future[list[str]] | None = None

    async def look_up(self) -> Sequence[str]:
        """Return its IP addresses, at least one. Raises OSError."""
        if self._look_up is None:
            self._look_up = in_thread(_addresses_of, self._host, self._port)
            self._look_up.add_done_callback(self._end_look_up)
        return await asyncio.shield(self._look_up)

    def _end_look_up(self, look_up: "asyncio.Future[list[str]]") -> None:
        self._look_up = None
        # All waiters may have timed out; an exception that nobody retrieves would be logged.
        if not look_up.cancelled() and look_up.exception() is None:
            self.addresses = look_up.result()


def _addresses_of(name: str, port: int) -> list[str]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(_text_of(address) for *_, address in found))
    if not addresses:
        raise OSError("the name has no address")
    return addresses


def _text_of(address: Sequence[Any]) -> str:
    """Return an IP address, and its zone if it is link-local: without that, nothing can be connected to it."""
    match address:
        case (ip, _, _, zone) if zone:
            return f"{ip}%{zone}"
    return str(address[0])
