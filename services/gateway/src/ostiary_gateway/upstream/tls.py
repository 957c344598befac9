"""TLS on connections to upstreams, of which what has been received is read although sending fails (see `read_out`)."""

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from ostiary_gateway.upstream.read_out import received_bytes

P = TypeVar("P", bound=asyncio.BaseProtocol)


async def connect(
    protocol: Callable[[], P], address: str, port: int, tls: ssl.SSLContext, name: str
) -> tuple[asyncio.Transport, P]:
    """Open a connection to the server `name` and agree on TLS. Raises OSError."""
    loop = asyncio.get_running_loop()
    plain, _ = await loop.create_connection(asyncio.Protocol, address, port)
    connection = protocol()
    try:
        transport = await loop.start_tls(plain, connection, tls, server_hostname=name)
    except BaseException:
        plain.abort()
        raise
    if transport is None:
        raise ConnectionAbortedError("closed during the handshake")
    # Between the socket and TLS: the event loop's own TLS reads nothing more once sending has failed.
    plain.set_protocol(_ReadOut(plain, plain.get_protocol()))  # type: ignore[arg-type]  # the event loop's for TLS
    connection.connection_made(transport)
    return transport, connection


class _ReadOut(asyncio.BufferedProtocol):
    """Hands all that happens on to the protocol that decrypts it, and what was left unread at the end."""

    def __init__(self, transport: asyncio.Transport, decrypting: asyncio.BufferedProtocol) -> None:
        self._transport = transport
        self._decrypting = decrypting
        # Methods of the instance, as each read calls them.
        self.get_buffer = decrypting.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = decrypting.buffer_updated  # type: ignore[method-assign]
        self.eof_received = decrypting.eof_received  # type: ignore[method-assign]
        self.pause_writing = decrypting.pause_writing  # type: ignore[method-assign]
        self.resume_writing = decrypting.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._pass_on(received_bytes(self._transport))
        self._decrypting.connection_lost(error)

    def _pass_on(self, data: bytes) -> None:
        while data:
            buffer = self._decrypting.get_buffer(len(data))
            size = min(len(buffer), len(data))  # type: ignore[arg-type]  # a memoryview
            buffer[:size] = data[:size]  # type: ignore[index]  # the same
            self._decrypting.buffer_updated(size)
            data = data[size:]
