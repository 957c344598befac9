"""HTTP/1.1 messages as bytes (RFC 9112): read strictly, written plainly. No sockets and no clocks here.

Two servers that read one message in two ways are what request smuggling is made of. So whatever is not
exactly in the form of the RFC is refused, also where it allows leniency, and what goes on is written anew:
no byte of a message's framing passes through.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Bytes of a head, and how many fields it has at most.
MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 128

#: Bytes of a chunk's head line, extensions included, and of a trailer section.
MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8 * 1024

#: Chunks that are read in one go.
MAX_CHUNKS_AT_ONCE = 256

#: What is kept of lines that come again: how many, and bytes of each.
MAX_MEMO = 4096
MAX_KEPT = 256

#: Lower-case names and values, in their order.
Fields = list[tuple[bytes, bytes]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"

# RFC 9112 section 3; nothing but single spaces between the parts, and no other version.
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: " + _VALUE + rb")?")

_NAME = re.compile(_TOKEN)

# What a value may be made of (section 5.5): no control characters but tabs.
_VALUE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])

_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + _VALUE + rb")?\r\n")

#: Without a reason if the status is unknown: it says nothing to programs (RFC 9112 section 4).
_WRITTEN_STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)} | {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}

#: Statuses (RFC 9110 section 15).
_FIRST_FINAL = 200
_NO_CONTENT, _NOT_MODIFIED = 204, 304
_WITHOUT_BODY = frozenset({*range(100, 200), _NO_CONTENT})


class BadMessage(Exception):
    """A message that is not valid, or that could be read in two ways."""


class TooLarge(BadMessage):
    """A head, a chunk's line or a trailer section over its limit."""


class UnknownVersion(BadMessage):
    """A request of another major version of HTTP."""


class UnknownCoding(BadMessage):
    """A request body in a transfer coding other than chunked."""


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


class Sized:
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


class UntilClose:
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


class Chunked:
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
        self.trailers = _fields(data[:end].split(b"\r\n"))
        self.done = True
        return data[end + 4 :]

    def end(self) -> bool:
        """Return whether all of it was there."""
        return self.done


@dataclass(slots=True)
class Request:
    """The head of a request. `names` has the last value of each field."""

    method: str
    target: bytes
    #: Whether it is HTTP/1.1, and not 1.0.
    is_current: bool
    fields: Fields
    names: dict[bytes, bytes]
    #: None without a body.
    body: Sized | Chunked | None
    keeps_alive: bool
    #: What `Connection` lists, in lower case (RFC 9110 section 7.6.1).
    options: frozenset[bytes]
    #: Bytes of the head.
    size: int
    #: The lines of it that go on, when they have been worked out: a head that comes again has the same.
    passing: bytes | None = None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be asked for the body (RFC 9110 section 10.1.1)."""
        return self.is_current and self.names.get(b"expect", b"").lower() == b"100-continue"


@dataclass(slots=True)
class Response:
    """The head of a response."""

    status: int
    fields: Fields
    names: dict[bytes, bytes]
    body: Body
    keeps_alive: bool
    options: frozenset[bytes]
    #: As in a request.
    passing: bytes | None = None

    @property
    def is_final(self) -> bool:
        """Whether no other response to the same request follows."""
        return self.status >= _FIRST_FINAL

    @property
    def may_have_length(self) -> bool:
        """Whether `Content-Length` has a meaning (RFC 9110 section 8.6); of 304, it is of the body there would be."""
        return self.status != _NO_CONTENT and b"transfer-encoding" not in self.names


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
    method, target, is_current = _REQUEST_LINES[lines[0]]
    fields = _fields(lines[1:-2])
    names = dict(fields)
    if len(names) != len(fields):
        _check_single(fields)
    options = _options(fields) if b"connection" in names else _NO_OPTIONS
    return Request(
        method,
        target,
        is_current,
        fields,
        names,
        _request_body(names, is_current=is_current),
        b"close" not in options and (is_current or b"keep-alive" in options),
        options,
        len(head),
    )


def parse_response(head: bytes, method: str) -> Response:
    """Read the head of a response to a request with this method. Raises BadMessage."""
    lines = head.split(b"\r\n")
    status, is_current = _STATUS_LINES[lines[0]]
    fields = _fields(lines[1:-2])
    names = dict(fields)
    if len(names) != len(fields):
        _check_single(fields)
    options = _options(fields) if b"connection" in names else _NO_OPTIONS
    keeps_alive = b"close" not in options and (is_current or b"keep-alive" in options)
    body = _response_body(names, status, method, is_current=is_current)
    has_coding, length = b"transfer-encoding" in names, names.get(b"content-length", b"0")
    has_none = status in _WITHOUT_BODY or status == _NOT_MODIFIED or method == "HEAD"
    if (has_coding and length != b"0") or (has_none and (has_coding or length != b"0")):
        # Two lengths, or one of what there is not (RFC 9112 section 6.3): whether it comes all the same, nobody knows.
        keeps_alive = False
    return Response(status, fields, names, body, keeps_alive and not isinstance(body, UntilClose), options)


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


class Memo(dict[K, V]):
    """What was worked out about keys that come again and again. What a key means depends on nothing else."""

    def __init__(self, work_out: Callable[[K], V], is_kept: Callable[[K, V], bool] = lambda _key, _value: True) -> None:
        """Work out with `work_out`, and keep what `is_kept` allows."""
        super().__init__()
        self._work_out = work_out
        self._is_kept = is_kept

    def __missing__(self, key: K) -> V:
        """Work a value out. Raises what that raises."""
        value = self._work_out(key)
        if self._is_kept(key, value):
            if len(self) >= MAX_MEMO:
                # Cheaper than to know which come again: those come again.
                self.clear()
            self[key] = value
        return value


def _read_request_line(line: bytes) -> tuple[str, bytes, bool]:
    """Return method, target, and whether it is HTTP/1.1. Raises BadMessage."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadMessage("request line")
    if match[3] != b"1":
        raise UnknownVersion
    # A recipient treats higher minor versions as the highest that it knows (RFC 9110 section 2.5).
    return match[1].decode("ascii"), match[2], match[4] != b"0"


def _read_status_line(line: bytes) -> tuple[int, bool]:
    """Return the status, and whether it is HTTP/1.1. Raises BadMessage."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadMessage("status line")
    return int(match[2]), match[1] != b"0"


def _read_name(name: bytes) -> bytes:
    """Return a field's name in lower case. Without space before the colon, no line folding. Raises BadMessage."""
    if _NAME.fullmatch(name) is None:
        raise BadMessage("field line")
    return name.lower()


def _read_field(line: bytes) -> tuple[bytes, bytes]:
    """Return name and value (RFC 9112 section 5). Raises BadMessage."""
    name, colon, value = line.partition(b":")
    # Values may be long; so the bytes that they may have are taken out, and nothing may be left.
    if not colon or value.translate(None, _VALUE_BYTES):
        raise BadMessage("field line")
    return _FIELD_NAMES[name], value.strip(b"\t ")


# No secrets are kept: they stand in queries and in these.
_SECRET = re.compile(rb"auth|cookie|key|token|secret|session|password|signature|assertion|jwt")
_REQUEST_LINES = Memo(_read_request_line, lambda line, _: len(line) <= MAX_KEPT and b"?" not in line)
_STATUS_LINES = Memo(_read_status_line, lambda line, _: len(line) <= MAX_KEPT)
_FIELD_NAMES = Memo(_read_name, lambda name, _: len(name) <= MAX_KEPT)
_FIELDS = Memo(_read_field, lambda line, field: len(line) <= MAX_KEPT and _SECRET.search(field[0]) is None)


def is_field_kept(field: tuple[bytes, bytes], _: object) -> bool:
    """Return whether something about a field may be kept."""
    return len(field[1]) <= MAX_KEPT and _SECRET.search(field[0]) is None


def _fields(lines: list[bytes]) -> Fields:
    """Read field lines. Raises BadMessage."""
    if len(lines) > MAX_FIELDS:
        raise TooLarge("fields")
    return [_FIELDS[line] for line in lines]


_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-type", b"expect", b"origin", b"upgrade"}
)


def _check_single(fields: Fields) -> None:
    """See that what may stand once does. Raises BadMessage."""
    seen: set[bytes] = set()
    for name, _ in fields:
        if name in seen and name in _SINGLE:
            raise BadMessage(f"several {name.decode()} fields")
        seen.add(name)


def _options(fields: Fields) -> frozenset[bytes]:
    return _OPTIONS[b",".join([value for name, value in fields if name == b"connection"])]


def _read_options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b"\t ") for option in value.lower().split(b","))


_OPTIONS = Memo(_read_options, lambda value, _: len(value) <= MAX_KEPT)


def _request_body(names: dict[bytes, bytes], *, is_current: bool) -> Sized | Chunked | None:
    """Return the body that a request has (RFC 9112 section 6.3). Raises BadMessage."""
    coding, length = names.get(b"transfer-encoding"), names.get(b"content-length")
    if coding is not None:
        if length is not None or not is_current:
            raise BadMessage("two ways to end a body")
        if coding.lower() != b"chunked":
            raise UnknownCoding
        return Chunked()
    return None if length is None else Sized(_length(length))


def _response_body(names: dict[bytes, bytes], status: int, method: str, *, is_current: bool) -> Body:
    """Return the body that a response has (RFC 9112 section 6.3). Raises BadMessage."""
    coding, length = names.get(b"transfer-encoding"), names.get(b"content-length")
    if coding is not None and (coding.lower() != b"chunked" or not is_current):
        raise BadMessage("transfer coding")
    size = None if length is None else _length(length)
    if method == "HEAD" or status in {_NO_CONTENT, _NOT_MODIFIED} or status < _FIRST_FINAL:
        return Sized(0)
    if coding is not None:
        return Chunked()
    return UntilClose() if size is None else Sized(size)


def _length(value: bytes) -> int:
    if _LENGTH.match(value) is None:
        raise BadMessage("content length")
    return int(value)
