"""A WebSocket between client and upstream. The gateway can close it, on both sides at the end of a frame.

OPEN -- close --> CLOSING -- the upstream's frame ends --> CLOSED
"""

from typing import Final

from ostiary_gateway.http1.websocket import GOING_AWAY, FrameTracker, close_frame, masked
from ostiary_gateway.state import State

#: Seconds for a frame to end when the gateway closes a WebSocket.
CLOSE_SECONDS = 1.0

OPEN: Final = State("open")
CLOSING: Final = State("closing")
CLOSED: Final = State("closed")
OPEN.leads_to(CLOSING)
CLOSING.leads_to(CLOSED)


class Tunnel:
    """Follows the frames of both sides. No I/O here."""

    __slots__ = ("_clients_frames", "_close_frame", "_reason", "_state", "_upstreams_frames")

    def __init__(self) -> None:
        self._state: State = OPEN
        self._upstreams_frames = FrameTracker()
        self._clients_frames = FrameTracker()
        self._close_frame = b""
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether both sides may send."""
        return self._state is OPEN

    @property
    def is_closed(self) -> bool:
        """Whether the close frame has been given out."""
        return self._state is CLOSED

    def send(self, data: bytes) -> None:
        """Take note of bytes that go from the client to the upstream."""
        self._clients_frames.advance(data)

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the upstream; return the bytes for the client."""
        if self._state is OPEN:
            self._upstreams_frames.advance(data)
            return data
        # The current frame, and nothing after it.
        rest = data[: self._upstreams_frames.advance(data, stop_at_boundary=True)]
        return rest + self._close_at_boundary()

    def close(self, code: int, reason: str) -> bytes:
        """Begin to close; return the close frame for the client, unless a frame is under way to it or it has one."""
        self._enter(CLOSING)
        self._close_frame = close_frame(code, reason)
        self._reason = reason
        return self._close_at_boundary()

    def upstreams_close_frame(self) -> bytes:
        """Return the frame that tells the upstream that its client goes away, unless the client is within a frame.

        None after the client's own one.
        """
        if not self._clients_frames.at_boundary or self._clients_frames.has_closed:
            return b""
        return masked(close_frame(GOING_AWAY, self._reason))

    def _close_at_boundary(self) -> bytes:
        if not self._upstreams_frames.at_boundary:
            return b""
        self._enter(CLOSED)
        # The service verifies the token, too, and may have been faster.
        return b"" if self._upstreams_frames.has_closed else self._close_frame

    def _enter(self, state: State) -> None:
        self._state = self._state.to(state)
