"""Writes of many connections, flushed together at the end of an iteration of the event loop.

A write may wake up the process at the other end, and on an idle core that takes longer than the write. Several small
writes in a row wake it once.
"""

import asyncio

#: Bytes that a connection holds back; more are written at once. Small responses come by the thousands and gain from
#: the delay. Large ones must reach the socket soon: only its buffer tells when the client reads too slowly.
MAX_BUFFERED_BYTES = 16 * 1024


class FlushQueue:
    """Connections to flush at the end of the current iteration of the event loop."""

    def __init__(self) -> None:
        self._pending: list[WriteBufferedProtocol] = []

    def put(self, connection: "WriteBufferedProtocol") -> None:
        if not self._pending:
            # Runs after the callbacks of all sockets that are readable now.
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(connection)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for connection in pending:
            connection.flush()


class WriteBufferedProtocol(asyncio.Protocol):
    """A connection that buffers small writes until its queue is flushed, and can stop reading."""

    def __init__(self, flush_queue: FlushQueue) -> None:
        self._flush_queue = flush_queue
        #: None before and after the connection.
        self._transport: asyncio.Transport | None = None
        self._unsent = b""
        self._is_reading_paused = False

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        in_transport = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return in_transport + len(self._unsent)

    def write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            if len(self._unsent) > MAX_BUFFERED_BYTES:
                self.flush()
        elif len(data) > MAX_BUFFERED_BYTES:
            if self._transport is not None:
                self._transport.write(data)
        elif data and self._transport is not None:
            self._unsent = data
            self._flush_queue.put(self)

    def flush(self) -> None:
        """Hand buffered bytes to the transport. Call it before anything else is done with the transport."""
        data, self._unsent = self._unsent, b""
        if data and self._transport is not None:
            self._transport.write(data)

    def _abort(self) -> None:
        """Close the connection at once. Bytes already written are sent as far as the kernel takes them now."""
        self.flush()
        if self._transport is not None:
            self._transport.abort()

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = False
            self._transport.resume_reading()
