"""Message bodies: where each ends, and chunked decoding (RFC 9112 sections 6 and 7)."""

import re
from typing import Final, Protocol

from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownCoding
from ostiary_gateway.http1.fields import TOKEN, Fields, parse_fields
from ostiary_gateway.http1.status import FIRST_FINAL, NO_CONTENT, NOT_MODIFIED

#: Bytes of a chunk's size line, with its extensions and CRLF. Extensions have no use, so little is enough.
MAX_CHUNK_LINE_BYTES = 256

#: Bytes of a trailer section, without the CRLFs that end it.
MAX_TRAILER_BYTES = 8 * 1024

#: Chunks that one call of `take` decodes: a body of one-byte chunks must not keep the event loop from other clients.
MAX_CHUNKS_AT_ONCE = 256

# 18 digits fit into 64 bits, which is what other servers count with.
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
# RFC 9112 section 7.1.1, with the quoted strings of RFC 9110 section 5.6.4.
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rb";[\t ]*" + TOKEN + rb"(?:[\t ]*=[\t ]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?(?:[\t ]+(?=;))?"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*\r\n")
# RFC 9110 section 10.1.4: names and parameters of transfer codings.
_CODING = re.compile(TOKEN + rb"(?:[\t ]*;[\t ]*" + TOKEN + rb"[\t ]*=[\t ]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))*")
_CRLF: Final = b"\r\n"
_CRLF_BYTES: Final = 2


class Body(Protocol):
    """Decodes the body of one message."""

    done: bool

    @property
    def trailers(self) -> Fields:
        """Fields after the body; complete when `done`."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split `data` into decoded content and the rest. Raises BadMessage.

        When `done`, the rest belongs to the next message. Before, the caller passes the rest in again later, so that
        other connections get a turn.
        """

    def end(self) -> bool:
        """Take note of the connection's end. Return whether the body is complete."""


class ContentLengthBody:
    """A body with a known length."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        #: Bytes to come.
        self.left = length
        self.done = length == 0

    def take(self, data: bytes) -> tuple[bytes, bytes]:
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
        return []

    def end(self) -> bool:
        return self.done


class CloseDelimitedBody:
    """A response body that ends with its connection, so truncation goes unnoticed (RFC 9112 section 6.3)."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""

    @property
    def trailers(self) -> Fields:
        return []

    def end(self) -> bool:
        self.done = True
        return True


class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1). Chunk extensions are dropped.

    It expects, in turn: a size line, then content and its CRLF (`_left` > 0), and so on; after a size of zero the
    trailer section (`_in_trailers`), then nothing (`done`).
    """

    __slots__ = ("_buffer", "_in_trailers", "_left", "done", "trailers")

    def __init__(self) -> None:
        #: An incomplete size line or trailer section.
        self._buffer = b""
        #: Bytes to come of the current chunk, including the CRLF after it.
        self._left = 0
        self._in_trailers = False
        self.done = False
        self.trailers: Fields = []

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        content: list[bytes] = []
        position, size, chunks = 0, len(data), 0
        while position < size:
            if self._left > _CRLF_BYTES:
                piece = data[position : position + self._left - _CRLF_BYTES]
                content.append(piece)
                self._left -= len(piece)
                position += len(piece)
            elif self._left:
                position += self._take_chunk_end(data[position : position + self._left])
            elif self._in_trailers:
                return b"".join(content), self._take_trailers(data[position:])
            else:
                if chunks == MAX_CHUNKS_AT_ONCE:
                    return b"".join(content), data[position:]
                chunks += 1
                line_end = self._take_size_line(data, position)
                if line_end < 0:
                    self._buffer = data[position:]
                    break
                position = line_end
        return b"".join(content), b""

    def end(self) -> bool:
        return self.done

    def _take_size_line(self, data: bytes, position: int) -> int:
        """Return where the line ends, -1 if it is incomplete. Raises BadMessage."""
        line_end = data.find(b"\n", position, position + MAX_CHUNK_LINE_BYTES)
        if line_end < 0:
            if len(data) - position >= MAX_CHUNK_LINE_BYTES:
                raise TooLarge("chunk size line too long")
            return -1
        line = _CHUNK_LINE.fullmatch(data, position, line_end + 1)
        if line is None:
            raise BadMessage("invalid chunk size line")
        length = int(line[1], 16)
        self._left = length + _CRLF_BYTES if length else 0
        self._in_trailers = length == 0
        return line_end + 1

    def _take_chunk_end(self, data: bytes) -> int:
        """Return how many bytes of the CRLF after a chunk, which may arrive in two pieces, there are."""
        if not _CRLF[_CRLF_BYTES - self._left :].startswith(data):
            raise BadMessage("chunk longer than its size")
        self._left -= len(data)
        return len(data)

    def _take_trailers(self, data: bytes) -> bytes:
        """Return what follows the trailer section. Raises BadMessage."""
        if data.startswith(_CRLF):
            self.done = True
            return data[_CRLF_BYTES:]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            # The last three bytes may be the beginning of the section's end.
            if len(data) - 3 > MAX_TRAILER_BYTES:
                raise TooLarge("trailer section too large")
            self._buffer = data
            return b""
        if end > MAX_TRAILER_BYTES:
            raise TooLarge("trailer section too large")
        self.trailers = parse_fields(data[:end].split(_CRLF))
        self.done = True
        return data[end + 4 :]


def request_body(by_name: dict[bytes, bytes], *, is_http11: bool) -> ContentLengthBody | ChunkedBody | None:
    """Return a decoder for the body of a request, if it has one (RFC 9112 section 6.3). Raises BadMessage."""
    coding, length = by_name.get(b"transfer-encoding"), by_name.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadMessage("both Transfer-Encoding and Content-Length")
        if not is_http11:
            raise BadMessage("Transfer-Encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise _coding_fault(coding)
        return ChunkedBody()
    return None if length is None else ContentLengthBody(_parse_length(length))


def _coding_fault(value: bytes) -> BadMessage:
    """Return what is wrong with a request's transfer codings that are more or other than chunked."""
    *others, last = [each.strip(b"\t ") for each in value.lower().split(b",")]
    if last != b"chunked":
        # Nobody could tell where the body ends (RFC 9112 section 6.3).
        return BadMessage("chunked is not the last transfer coding")
    if b"chunked" in others or any(_CODING.fullmatch(each) is None for each in others):
        return BadMessage("invalid Transfer-Encoding")
    return UnknownCoding("unknown transfer coding")


def response_body(by_name: dict[bytes, bytes], status: int, method: str, *, is_http11: bool) -> Body:
    """Return a decoder for the body of a response to a `method` request (RFC 9112 section 6.3). Raises BadMessage."""
    coding, length = by_name.get(b"transfer-encoding"), by_name.get(b"content-length")
    if coding is not None and not is_http11:
        raise BadMessage("Transfer-Encoding in HTTP/1.0")
    if coding is not None and coding.lower() != b"chunked":
        raise BadMessage("unknown transfer coding")
    # Checked also where the length has no meaning.
    size = None if length is None else _parse_length(length)
    if method == "HEAD" or status in {NO_CONTENT, NOT_MODIFIED} or status < FIRST_FINAL:
        return ContentLengthBody(0)
    if coding is not None:
        return ChunkedBody()
    return CloseDelimitedBody() if size is None else ContentLengthBody(size)


def _parse_length(value: bytes) -> int:
    if _LENGTH.match(value) is None:
        raise BadMessage("invalid Content-Length")
    return int(value)
