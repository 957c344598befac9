"""The WebSocket protocol as far as a gateway needs it: the handshake and the boundaries of frames (RFC 6455)."""

import os
from typing import Final

from ostiary_gateway.http1.parser import Request, Response

#: Close codes. The first is the application's own, after HTTP's 401; the second is that of an endpoint that goes away
#: (section 7.4.1): the gateway shuts down, or has heard nothing for too long.
TOKEN_ENDED = 4401
GOING_AWAY = 1001

_OPCODE: Final = 0x0F
_CLOSE: Final = 0x08
_FINAL_CLOSE = 0x80 | _CLOSE
_MASKED = 0x80
_MASK_BYTES = 4
_MIN_HEAD_BYTES: Final = 2

#: The seven bits of length up to here are the length; the next value announces 2 bytes of length, the one after it 8.
_MAX_SHORT_LENGTH: Final = 125
_TWO_BYTES_OF_LENGTH: Final = 126


def is_handshake(request: Request) -> bool:
    """Whether the request is a WebSocket's opening handshake (section 4.1)."""
    return (
        request.by_name.get(b"upgrade", b"").lower() == b"websocket"
        and b"upgrade" in request.connection_options
        and request.method == "GET"
        and request.is_http11
        # Java's client says `Content-Length: 0`.
        and (request.body is None or request.body.done)
    )


def is_accepted(response: Response) -> bool:
    """Whether a 101 response to a handshake accepts it (section 4.2.2)."""
    return response.by_name.get(b"upgrade", b"").lower() == b"websocket" and b"upgrade" in response.connection_options


def close_frame(code: int, reason: str) -> bytes:
    """Return a server's close frame (section 5.5.1)."""
    payload = code.to_bytes(2) + reason.encode()[: _MAX_SHORT_LENGTH - 2]
    return bytes([_FINAL_CLOSE, len(payload)]) + payload


def masked(frame: bytes) -> bytes:
    """Return a short frame of a server as one of a client (section 5.3)."""
    key = os.urandom(_MASK_BYTES)
    payload = bytes(byte ^ key[index % _MASK_BYTES] for index, byte in enumerate(frame[_MIN_HEAD_BYTES:]))
    return bytes([frame[0], frame[1] | _MASKED]) + key + payload


class FrameTracker:
    """Tracks where frames begin and end in a stream, so that another can be inserted between two (section 5.2)."""

    def __init__(self) -> None:
        #: Whether a close frame has begun, after which there must be no other (section 5.5.1).
        self.has_closed = False
        #: An incomplete head of a frame.
        self._head = b""
        #: Bytes of the current frame to come.
        self._left = 0

    @property
    def at_boundary(self) -> bool:
        return not self._left and not self._head

    def advance(self, data: bytes, *, stop_at_boundary: bool = False) -> int:
        """Return how many bytes were consumed: all, or those up to the first boundary."""
        position, size = 0, len(data)
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            else:
                self._head += data[position : position + 1]
                position += 1
                length = _bytes_after_head(self._head)
                if length is None:
                    continue
                self.has_closed = self.has_closed or self._head[0] & _OPCODE == _CLOSE
                self._head, self._left = b"", length
            if stop_at_boundary and not self._left:
                break
        return position


def _bytes_after_head(head: bytes) -> int | None:
    """Return how many bytes follow a frame's head, None if the head is incomplete. A mask counts as following."""
    if len(head) < _MIN_HEAD_BYTES:
        return None
    length = head[1] & ~_MASKED
    mask = _MASK_BYTES if head[1] & _MASKED else 0
    if length <= _MAX_SHORT_LENGTH:
        return length + mask
    length_bytes = 2 if length == _TWO_BYTES_OF_LENGTH else 8
    return int.from_bytes(head[2:]) + mask if len(head) == _MIN_HEAD_BYTES + length_bytes else None
