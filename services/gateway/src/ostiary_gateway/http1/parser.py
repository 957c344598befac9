"""HTTP/1.1 messages as bytes (RFC 9112): read strictly, written plainly. No sockets and no clocks here.

Two servers that read one message in two ways are what request smuggling is made of. So whatever is not
exactly in the form of the RFC is refused, also where it allows leniency, and what goes on is written anew:
no byte of a message's framing passes through.
"""

import re
from dataclasses import dataclass

from ostiary_gateway.http1.body import (
    Body,
    ChunkedBody,
    CloseDelimitedBody,
    ContentLengthBody,
    request_body,
    response_body,
)
from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownVersion
from ostiary_gateway.http1.fields import TOKEN, VALUE, Fields, check_single, connection_options, parse_fields
from ostiary_gateway.http1.memo import MAX_CACHED_BYTES, BoundedCache
from ostiary_gateway.http1.status import FIRST_FINAL, NO_CONTENT, NOT_MODIFIED, WITHOUT_BODY

#: Bytes of a head, and how many fields it has at most.
MAX_HEAD_BYTES = 32 * 1024

# RFC 9112 section 3; nothing but single spaces between the parts, and no other version.
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: " + VALUE + rb")?")


@dataclass(slots=True)
class Request:
    """The head of a request. `names` has the last value of each field."""

    method: str
    target: bytes
    #: Whether it is HTTP/1.1, and not 1.0.
    is_http11: bool
    fields: Fields
    by_name: dict[bytes, bytes]
    #: None without a body.
    body: ContentLengthBody | ChunkedBody | None
    keep_alive: bool
    #: What `Connection` lists, in lower case (RFC 9110 section 7.6.1).
    connection_options: frozenset[bytes]
    #: Bytes of the head.
    size: int
    #: The lines of it that go on, when they have been worked out: a head that comes again has the same.
    forwarded_lines: bytes | None = None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be asked for the body (RFC 9110 section 10.1.1)."""
        return self.is_http11 and self.by_name.get(b"expect", b"").lower() == b"100-continue"


@dataclass(slots=True)
class Response:
    """The head of a response."""

    status: int
    fields: Fields
    by_name: dict[bytes, bytes]
    body: Body
    keep_alive: bool
    connection_options: frozenset[bytes]
    #: As in a request.
    forwarded_lines: bytes | None = None

    @property
    def is_final(self) -> bool:
        """Whether no other response to the same request follows."""
        return self.status >= FIRST_FINAL

    @property
    def may_have_length(self) -> bool:
        """Whether `Content-Length` has a meaning (RFC 9110 section 8.6); of 304, it is of the body there would be."""
        return self.status != NO_CONTENT and b"transfer-encoding" not in self.by_name


_NO_OPTIONS: frozenset[bytes] = frozenset()


def head_end(data: bytes | bytearray, searched: int = 0) -> int:
    """Return where a head ends, -1 if it does not yet. `searched` bytes were looked at before. Raises BadMessage."""
    end = data.find(b"\r\n\r\n", max(0, searched - 3))
    # The line's end of its last field belongs to it; what is not there yet may be the rest of the empty line.
    if (len(data) - 3 if end < 0 else end) > MAX_HEAD_BYTES:
        raise TooLarge("head")
    if end >= 0:
        return end + 4
    if data.find(b"\n\n", max(0, searched - 1)) >= 0:
        # It would be waited for in vain.
        raise BadMessage("line ends")
    return -1


def parse_request(head: bytes) -> Request:
    """Read the head of a request, with the empty line that ends it. Raises BadMessage."""
    lines = head.split(b"\r\n")
    method, target, is_http11 = _REQUEST_LINES[lines[0]]
    fields = parse_fields(lines[1:-2])
    names = dict(fields)
    if len(names) != len(fields):
        check_single(fields)
    options = connection_options(fields) if b"connection" in names else _NO_OPTIONS
    return Request(
        method,
        target,
        is_http11,
        fields,
        names,
        request_body(names, is_http11=is_http11),
        b"close" not in options and (is_http11 or b"keep-alive" in options),
        options,
        len(head),
    )


def parse_response(head: bytes, method: str) -> Response:
    """Read the head of a response to a request with this method. Raises BadMessage."""
    lines = head.split(b"\r\n")
    status, is_http11 = _STATUS_LINES[lines[0]]
    fields = parse_fields(lines[1:-2])
    names = dict(fields)
    if len(names) != len(fields):
        check_single(fields)
    options = connection_options(fields) if b"connection" in names else _NO_OPTIONS
    keep_alive = b"close" not in options and (is_http11 or b"keep-alive" in options)
    body = response_body(names, status, method, is_http11=is_http11)
    has_coding, length = b"transfer-encoding" in names, names.get(b"content-length", b"0")
    has_none = status in WITHOUT_BODY or status == NOT_MODIFIED or method == "HEAD"
    if (has_coding and length != b"0") or (has_none and (has_coding or length != b"0")):
        # Two lengths, or one of what there is not (RFC 9112 section 6.3): whether it comes all the same, nobody knows.
        keep_alive = False
    return Response(status, fields, names, body, keep_alive and not isinstance(body, CloseDelimitedBody), options)


def parse_request_line(line: bytes) -> tuple[str, bytes, bool]:
    """Return method, target, and whether it is HTTP/1.1. Raises BadMessage."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadMessage("request line")
    if match[3] != b"1":
        raise UnknownVersion
    # A recipient treats higher minor versions as the highest that it knows (RFC 9110 section 2.5).
    return match[1].decode("ascii"), match[2], match[4] != b"0"


def parse_status_line(line: bytes) -> tuple[int, bool]:
    """Return the status, and whether it is HTTP/1.1. Raises BadMessage."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadMessage("status line")
    return int(match[2]), match[1] != b"0"


_REQUEST_LINES = BoundedCache(parse_request_line, lambda line, _: len(line) <= MAX_CACHED_BYTES and b"?" not in line)
_STATUS_LINES = BoundedCache(parse_status_line, lambda line, _: len(line) <= MAX_CACHED_BYTES)
