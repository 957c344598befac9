"""Message heads (RFC 9112 sections 2 to 5), parsed strictly.

Request smuggling needs two servers that parse one message differently. Therefore:

- Whatever deviates from the RFC's grammar is rejected, even where the RFC allows a recipient to be lenient. In
  responses, what does not concern their framing is mended (`repair`).
- Messages are serialized anew (`serializer`, `headers`): no byte of their framing is copied.

`head_end` finds where a head ends, `parse_request` and `parse_response` parse it; the `body` that they return decodes
what follows.
"""

import re
from dataclasses import dataclass
from typing import Any

from ostiary_gateway.http1.body import (
    Body,
    ChunkedBody,
    CloseDelimitedBody,
    ContentLengthBody,
    request_body,
    response_body,
)
from ostiary_gateway.http1.bounded_cache import BoundedCache, is_short
from ostiary_gateway.http1.errors import BadMessage, LineTooLong, TooLarge, UnknownVersion
from ostiary_gateway.http1.fields import (
    MAX_RESPONSE_FIELDS,
    TOKEN,
    VALUE,
    Fields,
    check_singletons,
    connection_options,
    parse_fields,
)
from ostiary_gateway.http1.repair import merge_lengths, merge_repeated, repair
from ostiary_gateway.http1.status import FIRST_FINAL, NO_CONTENT, NOT_MODIFIED, WITHOUT_BODY

#: Bytes of a head, without the CRLFs that end it. Common servers take 8 to 64 KiB of a request. Of a response, too much
#: is a mistake of the service, and no attack.
DEFAULT_HEAD_BYTES = 32 * 1024
DEFAULT_RESPONSE_HEAD_BYTES = 64 * 1024

#: Bytes that may be allowed at most: for tickets, assertions and very long queries.
MAX_HEAD_BYTES = 1024 * 1024

# RFC 9112 section 3, with single spaces only. Some clients send UTF-8 in targets as it is.
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: " + VALUE + rb")?")
# RFC 9112 section 2.2. A CR at the end of what has arrived may be followed by its LF.
_BROKEN_LINE_END = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_NO_OPTIONS: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class Request:
    """The head of a request."""

    method: str
    target: bytes
    #: False for HTTP/1.0.
    is_http11: bool
    fields: Fields
    #: The last value of each field.
    by_name: dict[bytes, bytes]
    #: None if the request has no body.
    body: ContentLengthBody | ChunkedBody | None
    keep_alive: bool
    #: Options in `Connection`, in lower case (RFC 9110 section 7.6.1).
    connection_options: frozenset[bytes]
    #: Bytes of the head.
    size: int
    #: A cache for `headers`: the serialized fields to forward, the filter that they are of, and what they were made of.
    forwarded_lines: bytes | None = None
    forwarded_by: Any = None
    forwarded_fields: Fields | None = None

    @property
    def expects_continue(self) -> bool:
        """Whether the client sends the body only after 100 Continue (RFC 9110 section 10.1.1)."""
        return self.is_http11 and self.by_name.get(b"expect", b"").lower() == b"100-continue"


@dataclass(slots=True)
class Response:
    """The head of a response. Members are those of a request."""

    status: int
    fields: Fields
    by_name: dict[bytes, bytes]
    body: Body
    keep_alive: bool
    connection_options: frozenset[bytes]
    is_http11: bool
    #: A cache for what serializes the response: the fields to forward, by what is said about cookies.
    forwarded_lines: dict[int, bytes] | None = None

    @property
    def is_final(self) -> bool:
        """False for interim responses, after which others follow."""
        return self.status >= FIRST_FINAL

    @property
    def may_have_length(self) -> bool:
        """Whether to forward `Content-Length` (RFC 9110 section 8.6). That of 304 is the length that 200 would have."""
        return self.status != NO_CONTENT and b"transfer-encoding" not in self.by_name


def head_end(data: bytes | bytearray, searched: int = 0, limit: int = DEFAULT_HEAD_BYTES) -> int:
    """Return where a head of at most `limit` bytes ends, -1 if it is incomplete. Raises BadMessage.

    Skips the first `searched` bytes.
    """
    end = data.find(b"\r\n\r\n", max(0, searched - 3))
    # The last three bytes of an incomplete head may be the beginning of its end.
    if (len(data) - 3 if end < 0 else end) > limit:
        raise TooLarge("head too large") if data.find(b"\r\n", 2, limit) >= 0 else LineTooLong("first line too long")
    if end >= 0:
        return end + 4
    if data.find(b"\n\n", max(0, searched - 1)) >= 0:
        # A lenient client takes its head for complete and waits for a response.
        raise BadMessage("lines end with LF instead of CRLF")
    return -1


def check_line_ends(data: bytes | bytearray, searched: int = 0) -> None:
    """Raise BadMessage if an incomplete head has a CR or LF alone: its sender need not wait until it is overdue.

    Skips the first `searched` bytes.
    """
    if _BROKEN_LINE_END.search(data, max(0, searched - 1)) is not None:
        raise BadMessage("lines must end with CRLF, and have no other CR or LF")


def parse_request(head: bytes) -> Request:
    """Parse the head of a request, up to and including the empty line. Raises BadMessage."""
    lines = head.split(b"\r\n")
    method, target, is_http11 = _REQUEST_LINES[lines[0]]
    fields = parse_fields(lines[1:-2])
    by_name = dict(fields)
    if len(by_name) != len(fields):
        check_singletons(fields)
    options = connection_options(fields) if b"connection" in by_name else _NO_OPTIONS
    return Request(
        method,
        target,
        is_http11,
        fields,
        by_name,
        request_body(by_name, is_http11=is_http11),
        b"close" not in options and (is_http11 or b"keep-alive" in options),
        options,
        len(head),
    )


def parse_response(head: bytes, method: str) -> Response:
    """Parse the head of a response to a `method` request, up to and including the empty line. Raises BadMessage."""
    lines = head.split(b"\r\n")
    status, is_http11 = _STATUS_LINES[lines[0]]
    fields, is_repaired = _response_fields(lines[1:-2])
    by_name = dict(fields)
    if len(by_name) != len(fields):
        fields = merge_repeated(fields)
    if b"," in by_name.get(b"content-length", b""):
        by_name[b"content-length"] = merge_lengths(by_name[b"content-length"])
    options = connection_options(fields) if b"connection" in by_name else _NO_OPTIONS
    keep_alive = b"close" not in options and (is_http11 or b"keep-alive" in options) and not is_repaired
    body = response_body(by_name, status, method, is_http11=is_http11)
    has_coding, length = b"transfer-encoding" in by_name, by_name.get(b"content-length", b"0")
    has_no_body = status in WITHOUT_BODY or status == NOT_MODIFIED or method == "HEAD"
    if (has_coding and length != b"0") or (has_no_body and (has_coding or length != b"0")):
        # Two lengths, or a length without a body (RFC 9112 section 6.3): a wrong server may send that body all the
        # same, and it would be taken for the next response.
        keep_alive = False
    keep_alive = keep_alive and not isinstance(body, CloseDelimitedBody)
    return Response(status, fields, by_name, body, keep_alive, options, is_http11)


def _response_fields(lines: list[bytes]) -> tuple[Fields, bool]:
    """Return the fields, and whether their lines had to be mended. Raises BadMessage."""
    try:
        return parse_fields(lines, MAX_RESPONSE_FIELDS), False
    except TooLarge:
        raise
    except BadMessage:
        return parse_fields(repair(lines), MAX_RESPONSE_FIELDS), True


def parse_request_line(line: bytes) -> tuple[str, bytes, bool]:
    """Return the method, the target, and whether the version is at least HTTP/1.1. Raises BadMessage."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadMessage("invalid request line")
    if match[3] != b"1":
        raise UnknownVersion("unknown major version of HTTP")
    # A recipient treats higher minor versions as the highest that it knows (RFC 9110 section 2.5).
    return match[1].decode("ascii"), match[2], match[4] != b"0"


def parse_status_line(line: bytes) -> tuple[int, bool]:
    """Return the status, and whether the version is HTTP/1.1. Raises BadMessage."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadMessage("invalid status line")
    return int(match[2]), match[1] != b"0"


# A query may carry a secret, and seldom repeats.
_REQUEST_LINES = BoundedCache(parse_request_line, lambda line, _: is_short(line) and b"?" not in line)
_STATUS_LINES = BoundedCache(parse_status_line, is_short)
