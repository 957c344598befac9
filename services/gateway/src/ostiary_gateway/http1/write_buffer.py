"""What connections have to send, sent together at the end of a turn of the event loop.

To send something may wake up whoever waits at the other end, and on an idle core that takes longer than the sending.
When several things are sent one right after the other, they wake it once.
"""

import asyncio

#: Bytes of a connection that wait for the end of the turn; more are sent at once. Answers of a few lines are what comes
#: in thousands; larger ones must get to the socket soon, as only that says when it takes no more.
MAX_WAITING_BYTES = 16 * 1024


class FlushQueue:
    """The connections that have something to send."""

    def __init__(self) -> None:
        """Make one; it is empty."""
        self._waiting: list[WriteBufferedProtocol] = []

    def put(self, sender: "WriteBufferedProtocol") -> None:
        """Have `sender` send what it has when all that has arrived by now has been looked at."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(sender)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            sender.send_now()


class WriteBufferedProtocol(asyncio.Protocol):
    """A connection that sends by way of an flush_queue."""

    def __init__(self, flush_queue: FlushQueue) -> None:
        """Make one that is not connected yet."""
        self._flush_queue = flush_queue
        self._transport: asyncio.Transport | None = None
        self._unsent = b""

    @property
    def unsent(self) -> int:
        """How many bytes have not gone to the network yet."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return waiting + len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send bytes, soon."""
        if self._unsent:
            self._unsent += data
            if len(self._unsent) > MAX_WAITING_BYTES:
                self.send_now()
        elif len(data) > MAX_WAITING_BYTES:
            if self._transport is not None:
                self._transport.write(data)
        elif data and self._transport is not None:
            self._unsent = data
            self._flush_queue.put(self)

    def send_now(self) -> None:
        """Send what waits; before anything else is done with the transport."""
        data, self._unsent = self._unsent, b""
        if data and self._transport is not None:
            self._transport.write(data)

    def _abort(self) -> None:
        """Close the connection, whatever is going on. What was written is sent if there is room for it."""
        self.send_now()
        if self._transport is not None:
            self._transport.abort()
