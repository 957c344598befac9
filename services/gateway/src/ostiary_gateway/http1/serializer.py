"""Messages as bytes to send."""

from collections.abc import Iterable
from http import HTTPStatus

from ostiary_gateway.http1.fields import Fields

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Unknown statuses have an empty reason phrase: clients ignore it anyway (RFC 9112 section 4).
_STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)} | {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def status_line(status: int) -> bytes:
    return _STATUS_LINES[status]


def head(status: int, fields: Fields) -> bytes:
    """Serialize the head of a response, with the empty line that ends it."""
    return b"%b%b\r\n" % (status_line(status), lines(fields))


def lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Serialize fields, each as a line with its CRLF."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def chunk(content: bytes) -> bytes:
    """Serialize content, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def last_chunk(trailers: bytes = b"") -> bytes:
    """Serialize the end of a chunked body; `trailers` are serialized field lines."""
    return b"0\r\n%b\r\n" % trailers
