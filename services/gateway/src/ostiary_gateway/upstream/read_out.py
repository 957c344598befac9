"""What a broken connection had received: Linux keeps it for reading, also after a reset."""

import asyncio
import os
from contextlib import suppress
from typing import Any

#: Bytes read at once.
PIECE_BYTES = 256 * 1024


def received_bytes(transport: asyncio.Transport) -> bytes:
    """Return what a transport has not read; nothing with TLS, whose records only its own transport can read.

    Call it from `connection_lost`, when the socket is still open.
    """
    connected: Any = transport.get_extra_info("socket")
    if connected is None or connected.fileno() < 0 or transport.get_extra_info("sslcontext") is not None:
        return b""
    pieces: list[bytes] = []
    # An error is the end: the reset itself, or that there is nothing to read.
    with suppress(OSError):
        while piece := os.read(connected.fileno(), PIECE_BYTES):
            pieces.append(piece)
    return b"".join(pieces)
