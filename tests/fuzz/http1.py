"""Coverage-guided fuzzing of the gateway's HTTP/1.1 parser: it must agree with h11, however its input is cut.

`make fuzz` runs it. The first byte of an input selects what the rest is, the second how the rest is cut into pieces.
"""

import random
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import atheris
import h11
from corpus import CORPUS

with atheris.instrument_imports(include=["ostiary_gateway.http1"]):
    from ostiary_gateway.http1.body import Body, ChunkedBody
    from ostiary_gateway.http1.errors import BadMessage
    from ostiary_gateway.http1.fields import MAX_RESPONSE_FIELDS, Fields, parse_fields
    from ostiary_gateway.http1.parser import Request, Response, head_end, parse_request, parse_response
    from ostiary_gateway.http1.serializer import chunk, head, last_chunk, lines

#: Bytes of a head that h11 accepts: more than our parser does.
_H11_BYTES = 256 * 1024

#: Fields that h11 takes for framing even in trailers.
_FRAMING = {b"content-length", b"transfer-encoding"}

_SWITCHING_PROTOCOLS = 101

Pieces = list[bytes]

#: A message as far as it arrived: head, content, whether it is complete, trailers, and what follows it.
Message = tuple[Request | Response, bytes, bool, Fields, bytes]

#: The same as parsed by h11, and whether h11 would keep the connection.
Theirs = tuple[h11.Request | h11.Response | h11.InformationalResponse, bytes, bool, Fields, bytes, bool]


def cut_up(data: bytes, seed: int) -> Pieces:
    """Cut the bytes into pieces: none with seed 0, single bytes with seed 1, else at random."""
    if seed == 0:
        return [data]
    if seed == 1:
        return [data[index : index + 1] for index in range(len(data))]
    chance = random.Random(seed)  # noqa: S311 - no secret
    places = sorted({chance.randrange(len(data) + 1) for _ in range(chance.randrange(12))} - {0, len(data)})
    return [data[start:stop] for start, stop in pairwise([0, *places, len(data)])]


def read_body(body: Body | None, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Decode a body as a connection does. Return its content and what follows it. Raises BadMessage."""
    content, surplus = b"", b""
    for piece in pieces:
        rest = surplus + piece if body is None or body.done else piece
        while body is not None and rest and not body.done:
            more, rest = body.take(rest)
            content += more
        surplus = rest
    return content, surplus


def read(pieces: Pieces, parse: Callable[[bytes], Request | Response]) -> Message | None:
    """Parse a message that arrives in these pieces; None if its head is incomplete. Raises BadMessage."""
    data, searched = b"", 0
    for index, piece in enumerate(pieces):
        data += piece
        end = head_end(data, searched)
        searched = len(data)
        if end >= 0:
            message = parse(data[:end])
            content, surplus = read_body(message.body, [data[end:], *pieces[index + 1 :]])
            is_whole = message.body is None or message.body.done
            return message, content, is_whole, message.body.trailers if message.body is not None else [], surplus
    return None


def outcome(pieces: Pieces, parse: Callable[[bytes], Request | Response]) -> object:
    """Return what is equal for equal messages, however they arrive."""
    try:
        message = read(pieces, parse)
    except BadMessage:
        return "rejected"
    if message is None:
        return "incomplete"
    it, *rest = message
    first = (it.method, it.target, it.is_http11) if isinstance(it, Request) else (it.status,)
    return first, it.fields, it.by_name, it.keep_alive, it.connection_options, type(it.body), rest


def by_h11(data: bytes, role: type[h11.SERVER] | type[h11.CLIENT], method: str) -> Theirs:
    """Parse a message with h11. Raises h11.RemoteProtocolError for an invalid head."""
    connection = h11.Connection(role, max_incomplete_event_size=_H11_BYTES)
    if role is h11.CLIENT:
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "gw")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request | h11.Response | h11.InformationalResponse), event
    first, content = event, b""
    if isinstance(first, h11.InformationalResponse):
        return first, b"", True, [], connection.trailing_data[0], True
    trailers: Fields = []
    is_whole = False
    # h11 may reject an incomplete body sooner.
    with suppress(h11.RemoteProtocolError):
        while isinstance(event := connection.next_event(), h11.Data):
            content += event.data
        if isinstance(event, h11.EndOfMessage):
            trailers, is_whole = list(event.headers), True
    return first, content, is_whole, trailers, connection.trailing_data[0], connection.their_state is not h11.MUST_CLOSE


def assert_same(ours: Message, theirs: Theirs, *, is_copy: bool) -> None:
    """Assert that our parser and h11 agree on a message."""
    it, content, is_whole, trailers, surplus = ours
    other, their_content, they_are_done, their_trailers, their_surplus, they_keep = theirs
    if isinstance(it, Request):
        assert isinstance(other, h11.Request)
        assert (other.method.decode(), other.target) == (it.method, it.target)
        is_http11 = it.is_http11
    else:
        assert not isinstance(other, h11.Request)
        assert other.status_code == it.status
        is_http11 = other.http_version != b"1.0"
    # h11 lower-cases the name of a coding.
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in it.fields]
    assert list(other.headers) == fields
    assert their_content == content
    if is_whole:
        # The reverse need not hold: h11 accepts bare line feeds in places.
        assert they_are_done
        assert their_trailers == trailers
        assert is_copy or their_surplus == surplus
        # Our parser may close a connection that h11 keeps, not the reverse.
        assert they_keep or not it.keep_alive or not is_http11


def is_mended(data: bytes, response: Response) -> bool:
    """Return whether a response's fields are others than those that its head has by the grammar."""
    lines_of_fields = data[: head_end(data)].split(b"\r\n")[1:-2]
    try:
        fields = parse_fields(lines_of_fields, MAX_RESPONSE_FIELDS)
    except BadMessage:
        return True
    return fields != response.fields or dict(fields) != response.by_name


def written(message: Message, *, is_http11: bool) -> bytes:
    """Serialize a complete message."""
    it, content, _, trailers, _ = message
    if isinstance(it, Request):
        first = b"%b %b HTTP/1.%d\r\n" % (it.method.encode(), it.target, is_http11)
        top = first + lines(it.fields) + b"\r\n"
    else:
        top = head(it.status, it.fields)
    if isinstance(it.body, ChunkedBody):
        content = (chunk(content) if content else b"") + last_chunk(lines(trailers))
    return top + content


def check_message(data: bytes, seed: int, parse: Callable[[bytes], Request | Response], method: str) -> None:
    """Check a request, or a response to a `method` request."""
    assert outcome(cut_up(data, seed), parse) == outcome([data], parse)
    try:
        message = read([data], parse)
    except BadMessage:
        return
    if message is None:
        return
    it, _, is_whole, trailers, _ = message
    if isinstance(it, Request):
        if (it.is_http11 and b"host" not in it.by_name) or not it.target.isascii():
            # h11 rejects it. Admission rejects it, too, or escapes the target.
            return
        role: type[h11.SERVER | h11.CLIENT] = h11.SERVER
    elif it.status == _SWITCHING_PROTOCOLS:
        # Not HTTP from here on; h11 rejects it unless the request offered an upgrade.
        return
    elif is_mended(data, it):
        # h11 rejects it, or has all of what is here once.
        return
    else:
        role = h11.CLIENT
    if {name for name, _ in trailers} & _FRAMING:
        # Plain fields here, which are not forwarded.
        return
    assert_same(message, by_h11(data, role, method), is_copy=False)
    if is_whole:
        copy = written(message, is_http11=not isinstance(it, Request) or it.is_http11)
        assert_same(message, by_h11(copy, role, method), is_copy=True)
        again = outcome([copy], parse)
        assert again != "rejected"
        assert again != "incomplete"


def check_chunks(data: bytes, seed: int) -> None:
    """Check a chunked body."""

    def dechunk(pieces: Pieces) -> object:
        body = ChunkedBody()
        try:
            content, surplus = read_body(body, pieces)
        except BadMessage:
            return "rejected"
        return content, body.done, body.trailers, surplus

    whole = dechunk([data])
    assert dechunk(cut_up(data, seed)) == whole
    if isinstance(whole, tuple) and whole[1]:
        content, _, trailers, surplus = whole
        copy = (chunk(content) if content else b"") + last_chunk(lines(trailers)) + surplus
        assert dechunk(cut_up(copy, seed)) == whole


def check(data: bytes) -> None:
    """Check one input. Raises AssertionError, or any unexpected exception."""
    if len(data) < 2:
        return
    kind, seed, rest = data[0] % 4, data[1], data[2:]
    match kind:
        case 0:
            check_message(rest, seed, parse_request, "")
        case 1:
            check_message(rest, seed, lambda top: parse_response(top, "GET"), "GET")
        case 2:
            check_message(rest, seed, lambda top: parse_response(top, "HEAD"), "HEAD")
        case _:
            check_chunks(rest, seed)


RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 204 \r\nConnection: close, X\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
]


def write_seeds(directory: Path) -> None:
    """Seed the inputs with the corpus of requests that servers parse differently."""
    directory.mkdir(parents=True, exist_ok=True)
    inputs = [b"\0" + entry.data for entry in CORPUS]
    inputs += [kind + data for kind in (b"\1", b"\2") for data in RESPONSES]
    inputs += [b"\3" + data for data in (b"5\r\nhello\r\n0\r\n\r\n", b"1;x\r\na\r\n0\r\nX: 1\r\n\r\nrest")]
    for number, data in enumerate(inputs):
        (directory / f"seed-{number}").write_bytes(data[:1] + bytes([number % 256]) + data[1:])


def main(directory: Path, options: list[str]) -> None:
    """Fuzz with a growing directory of inputs, until libFuzzer's options or a finding end it."""
    write_seeds(directory)
    atheris.Setup([sys.argv[0], str(directory), f"-artifact_prefix={directory.parent}/", *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
