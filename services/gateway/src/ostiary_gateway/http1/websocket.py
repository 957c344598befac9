"""WebSockets, as far as a gateway looks into them: the handshake, and where frames end (RFC 6455)."""

from ostiary_gateway.http1.parser import Request, Response

#: Application-defined, as HTTP's 401: log in again, and come back.
TOKEN_ENDED = 4401

#: The server ends (section 7.4.1).
GOING_AWAY = 1001

_CLOSE = 0x88
_SHORT, _MEDIUM, _LONG = 125, 126, 127


def is_wanted(request: Request) -> bool:
    """Return whether a request offers to become a WebSocket (section 4.1)."""
    return (
        request.by_name.get(b"upgrade", b"").lower() == b"websocket"
        and b"upgrade" in request.connection_options
        and request.method == "GET"
        and request.is_http11
        and request.body is None
    )


def is_opened(response: Response) -> bool:
    """Return whether a response to that accepts it (section 4.2.2)."""
    return response.by_name.get(b"upgrade", b"").lower() == b"websocket" and b"upgrade" in response.connection_options


def close_frame(code: int, reason: str) -> bytes:
    """Return a server's close frame (section 5.5.1)."""
    payload = code.to_bytes(2) + reason.encode()[: _SHORT - 2]
    return bytes([_CLOSE, len(payload)]) + payload


class Frames:
    """Follows a server's frames, which are not masked: where one ends, another may be put in (section 5.2)."""

    def __init__(self) -> None:
        """Expect a frame."""
        self._head = b""
        #: Bytes of the current frame still to come.
        self._left = 0

    @property
    def at_boundary(self) -> bool:
        """Whether no frame has begun."""
        return not self._left and not self._head

    def follow(self, data: bytes, *, to_the_next_end: bool = False) -> int:
        """Take in bytes, all of them or up to where a frame ends, and return how many."""
        position, size = 0, len(data)
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            else:
                self._head += data[position : position + 1]
                position += 1
                length = _payload_length(self._head)
                if length is None:
                    continue
                self._head, self._left = b"", length
            if to_the_next_end and not self._left:
                break
        return position


def _payload_length(head: bytes) -> int | None:
    """Return the length that a frame's head says, with a mask if it has one; None if the head is not all there."""
    if len(head) < 2:  # noqa: PLR2004 - the shortest head
        return None
    said = head[1] & 0x7F
    mask = 4 if head[1] & 0x80 else 0
    if said <= _SHORT:
        return said + mask
    extended = 2 if said == _MEDIUM else 8
    return int.from_bytes(head[2:]) + mask if len(head) == 2 + extended else None
