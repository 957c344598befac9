"""Messages as bytes to send."""

from collections.abc import Iterable
from http import HTTPStatus

from ostiary_gateway.http1.fields import Fields

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Without a reason if the status is unknown: it says nothing to programs (RFC 9112 section 4).
_WRITTEN_STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)} | {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return _WRITTEN_STATUS_LINES[status]


def head(status: int, fields: Fields) -> bytes:
    """Return the head of a response."""
    return b"%b%b\r\n" % (status_line(status), lines(fields))


def lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return fields as they are written."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def chunk(content: bytes) -> bytes:
    """Return content as a chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def last_chunk(trailers: bytes = b"") -> bytes:
    """Return the end of a body in chunks, with the lines of fields after it."""
    return b"0\r\n%b\r\n" % trailers
