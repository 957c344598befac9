"""A WebSocket between client and upstream. The gateway can close it, at the end of a frame.

OPEN -- close --> CLOSING -- the upstream's frame ends --> CLOSED
"""

from typing import Final

from ostiary_gateway.http1.websocket import FrameTracker, close_frame
from ostiary_gateway.state import State

#: Seconds without a frame on a WebSocket whose route sets no idle timeout: longer than others' pings take.
IDLE_SECONDS = 3600.0

#: Seconds for a frame to end when the gateway closes a WebSocket.
CLOSE_SECONDS = 1.0

OPEN: Final = State("open")
CLOSING: Final = State("closing")
CLOSED: Final = State("closed")
OPEN.leads_to(CLOSING)
CLOSING.leads_to(CLOSED)


class Tunnel:
    """Follows the upstream's frames. No I/O here."""

    __slots__ = ("_close_frame", "_frames", "_state")

    def __init__(self) -> None:
        self._state: State = OPEN
        self._frames = FrameTracker()
        self._close_frame = b""

    @property
    def is_open(self) -> bool:
        """Whether both sides may send."""
        return self._state is OPEN

    @property
    def is_closed(self) -> bool:
        """Whether the close frame has been given out."""
        return self._state is CLOSED

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the upstream; return the bytes for the client."""
        if self._state is OPEN:
            self._frames.advance(data)
            return data
        # The current frame, and nothing after it.
        rest = data[: self._frames.advance(data, stop_at_boundary=True)]
        return rest + self._close_at_boundary()

    def close(self, code: int, reason: str) -> bytes:
        """Begin to close; return the close frame if no frame is under way."""
        self._enter(CLOSING)
        self._close_frame = close_frame(code, reason)
        return self._close_at_boundary()

    def _close_at_boundary(self) -> bytes:
        if not self._frames.at_boundary:
            return b""
        self._enter(CLOSED)
        return self._close_frame

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)
