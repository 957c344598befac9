"""Bodies: how far each goes, and how chunks are read (RFC 9112 sections 6 and 7)."""

import re
from typing import Protocol

from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownCoding
from ostiary_gateway.http1.fields import VALUE, Fields, parse_fields
from ostiary_gateway.http1.status import FIRST_FINAL, NO_CONTENT, NOT_MODIFIED

#: Bytes of a chunk's head line, extensions included, and of a trailer section.
MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8 * 1024

#: Chunks that are read in one go.
MAX_CHUNKS_AT_ONCE = 256
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + VALUE + rb")?\r\n")


class Body(Protocol):
    """How far a message's body goes."""

    done: bool

    @property
    def trailers(self) -> Fields:
        """Fields after the body."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the part of `data` that is content, and the rest. Raises BadMessage.

        When the body is done, the rest comes after it; before, it is for another call, after others had their turn.
        """

    def end(self) -> bool:
        """Return whether the body is complete if nothing more comes."""


class ContentLengthBody:
    """A body of a known length."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        """Expect so many bytes."""
        self.left = length
        self.done = length == 0

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return content and surplus."""
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data, b""
        self.done = True
        if left == 0:
            return data, b""
        return data[:left], data[left:]

    @property
    def trailers(self) -> Fields:
        """There are none."""
        return []

    def end(self) -> bool:
        """Return whether all of it was there."""
        return self.done


class CloseDelimitedBody:
    """A body that ends with its connection: of a response, and never a good way to end (RFC 9112 section 6.3)."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        """Expect any number of bytes."""
        self.done = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return all as content."""
        return data, b""

    @property
    def trailers(self) -> Fields:
        """There are none."""
        return []

    def end(self) -> bool:
        """Return that it is complete."""
        self.done = True
        return True


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1). Extensions are dropped."""

    __slots__ = ("_buffer", "_left", "_trailing", "done", "trailers")

    def __init__(self) -> None:
        """Expect a chunk."""
        self._buffer = b""
        #: Bytes of the current chunk still to come, with the line's end after it.
        self._left = 0
        self._trailing = False
        self.done = False
        self.trailers: Fields = []

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return content and surplus. Raises BadMessage."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        content: list[bytes] = []
        position, size, chunks = 0, len(data), 0
        while position < size:
            if self._left > 2:  # noqa: PLR2004 - the line's end
                piece = data[position : position + self._left - 2]
                content.append(piece)
                self._left -= len(piece)
                position += len(piece)
            elif self._left:
                # A line's end may come in two pieces.
                end = b"\r\n"[2 - self._left :]
                found = data[position : position + self._left]
                if not end.startswith(found):
                    raise BadMessage("a chunk is longer than it says")
                self._left -= len(found)
                position += len(found)
            elif self._trailing:
                return b"".join(content), self._take_trailers(data[position:])
            else:
                if chunks == MAX_CHUNKS_AT_ONCE:
                    return b"".join(content), data[position:]
                chunks += 1
                end_of_line = self._begin_chunk(data, position)
                if end_of_line < 0:
                    self._buffer = data[position:]
                    break
                position = end_of_line
        return b"".join(content), b""

    def _begin_chunk(self, data: bytes, position: int) -> int:
        """Read a chunk's head line; return where it ends, -1 if it does not yet. Raises BadMessage."""
        line_end = data.find(b"\n", position, position + MAX_CHUNK_LINE_BYTES)
        if line_end < 0:
            if len(data) - position >= MAX_CHUNK_LINE_BYTES:
                raise TooLarge("chunk line")
            return -1
        line = _CHUNK_LINE.fullmatch(data, position, line_end + 1)
        if line is None:
            raise BadMessage("chunk line")
        length = int(line[1], 16)
        self._left = length + 2 if length else 0
        self._trailing = length == 0
        return line_end + 1

    def _take_trailers(self, data: bytes) -> bytes:
        """Read the trailer section and return what comes after it."""
        if data.startswith(b"\r\n"):
            self.done = True
            return data[2:]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) - 3 > MAX_TRAILER_BYTES:
                raise TooLarge("trailers")
            self._buffer = data
            return b""
        if end > MAX_TRAILER_BYTES:
            raise TooLarge("trailers")
        self.trailers = parse_fields(data[:end].split(b"\r\n"))
        self.done = True
        return data[end + 4 :]

    def end(self) -> bool:
        """Return whether all of it was there."""
        return self.done


def request_body(by_name: dict[bytes, bytes], *, is_http11: bool) -> ContentLengthBody | ChunkedBody | None:
    """Return the body that a request has (RFC 9112 section 6.3). Raises BadMessage."""
    coding, length = by_name.get(b"transfer-encoding"), by_name.get(b"content-length")
    if coding is not None:
        if length is not None or not is_http11:
            raise BadMessage("two ways to end a body")
        if coding.lower() != b"chunked":
            raise UnknownCoding
        return ChunkedBody()
    return None if length is None else ContentLengthBody(_length(length))


def response_body(by_name: dict[bytes, bytes], status: int, method: str, *, is_http11: bool) -> Body:
    """Return the body that a response has (RFC 9112 section 6.3). Raises BadMessage."""
    coding, length = by_name.get(b"transfer-encoding"), by_name.get(b"content-length")
    if coding is not None and (coding.lower() != b"chunked" or not is_http11):
        raise BadMessage("transfer coding")
    size = None if length is None else _length(length)
    if method == "HEAD" or status in {NO_CONTENT, NOT_MODIFIED} or status < FIRST_FINAL:
        return ContentLengthBody(0)
    if coding is not None:
        return ChunkedBody()
    return CloseDelimitedBody() if size is None else ContentLengthBody(size)


def _length(value: bytes) -> int:
    if _LENGTH.match(value) is None:
        raise BadMessage("content length")
    return int(value)
