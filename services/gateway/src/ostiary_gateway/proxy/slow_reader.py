"""Clients that read slowly: how long they are waited for, during a response and after the last one.

A response holds a connection to the service, and of those there are few. So a client has to read at a minimum rate; one
that does is waited for, however long the response is.
"""

import fcntl
import struct
import termios
from typing import Any

#: Seconds between two measurements of what a client has read.
STALL_SECONDS = 30.0

#: Bytes a second that a client has to read, on average.
MIN_BYTES_PER_SECOND = 1024

#: Seconds for which a connection is read after its last response (RFC 9112 section 9.6): if it were closed at once,
#: unread data would cause a reset, and the client would lose the response.
LINGER_SECONDS = 2.0

#: The same for a client that goes on sending: many look for the response only after the last byte of their content.
MAX_LINGER_SECONDS = 30.0


def unsent_bytes(connected: Any) -> int:
    """Return how many bytes the system holds for a socket that its peer has not acknowledged."""
    (unsent,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(unsent)


class SlowReader:
    """Measures at what rate a client reads. `pending` is what it has not read yet, in bytes."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = 0

    def start(self, pending: int) -> None:
        """Begin to measure."""
        self.pending = pending

    def keeps_up(self, pending: int) -> bool:
        """Return whether the client has read enough since the last measurement."""
        read, self.pending = self.pending - pending, pending
        return read >= MIN_BYTES_PER_SECOND * STALL_SECONDS


class LingeringClose:
    """The end of a connection: the client gets time to read the last response and to close."""

    __slots__ = ("_ends_at", "_reader", "_seen", "_until", "discarded")

    def __init__(self, pending: int, now: float) -> None:
        self._reader = SlowReader()
        self._reader.start(pending)
        #: Until when, on the monotonic clock, the client need not have read anything.
        self._until = now + STALL_SECONDS
        self._ends_at = now + MAX_LINGER_SECONDS
        #: Bytes received since; and as of the last extension.
        self.discarded = self._seen = 0

    def extension(self, pending: int, now: float) -> float:
        """Return for how many seconds to wait further; 0 to close."""
        if pending and now < self._until:
            return min(LINGER_SECONDS, self._until - now)
        was_pending = self._reader.pending > 0
        keeps_up = self._reader.keeps_up(pending)
        if was_pending and not pending:
            # Only now that the client has read all of it, it has its time to close.
            return LINGER_SECONDS
        is_sending, self._seen = self.discarded > self._seen, self.discarded
        if not pending and is_sending and now < self._ends_at:
            return LINGER_SECONDS
        if not keeps_up:
            return 0.0
        self._until = now + STALL_SECONDS
        return LINGER_SECONDS
