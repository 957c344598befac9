"""Looks for messages that the gateway's parser reads in two ways, with inputs that find their way into its branches.

`make fuzz` runs it. The first byte of an input says what the rest is, the second one how that is cut into pieces.
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
    from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.body import Body, ChunkedBody
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request, Response, head_end, parse_request, parse_response
from ostiary_gateway.http1.serializer import chunk, head, last_chunk, lines

#: Bytes of a head that h11 reads: more than we do.
_H11_BYTES = 256 * 1024

#: What h11 takes for framing also where it is none, after a body.
_FRAMING = {b"content-length", b"transfer-encoding"}

_SWITCHING_PROTOCOLS = 101

Pieces = list[bytes]

#: A message as far as it is there: head, content, whether that is all of it, trailers, and what comes after it.
Message = tuple[Request | Response, bytes, bool, Fields, bytes]

#: The same as h11 reads it, with its own kind of head.
Theirs = tuple[h11.Request | h11.Response | h11.InformationalResponse, bytes, bool, Fields, bytes, bool]


def cut_up(data: bytes, seed: int) -> Pieces:
    """Return the bytes in pieces; with the first seeds, in one, and each byte for itself."""
    if seed == 0:
        return [data]
    if seed == 1:
        return [data[index : index + 1] for index in range(len(data))]
    chance = random.Random(seed)  # noqa: S311 - no secret
    places = sorted({chance.randrange(len(data) + 1) for _ in range(chance.randrange(12))} - {0, len(data)})
    return [data[start:stop] for start, stop in pairwise([0, *places, len(data)])]


def read_body(body: Body | None, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return content and what comes after it, read as a connection does. Raises BadMessage."""
    content, surplus = b"", b""
    for piece in pieces:
        rest = surplus + piece if body is None or body.done else piece
        while body is not None and rest and not body.done:
            more, rest = body.take(rest)
            content += more
        surplus = rest
    return content, surplus


def read(pieces: Pieces, parse: Callable[[bytes], Request | Response]) -> Message | None:
    """Return a message that comes in these pieces, None if its head does not end. Raises BadMessage."""
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
    """Return all that can be compared of what becomes of a message."""
    try:
        message = read(pieces, parse)
    except BadMessage:
        return "refused"
    if message is None:
        return "waits"
    it, *rest = message
    first = (it.method, it.target, it.is_http11) if isinstance(it, Request) else (it.status,)
    return first, it.fields, it.by_name, it.keep_alive, it.connection_options, type(it.body), rest


def by_h11(data: bytes, role: type[h11.SERVER] | type[h11.CLIENT], method: str) -> Theirs:
    """Return a message as h11 reads it. Raises h11.RemoteProtocolError for its head."""
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
    # It may see sooner than we that no good end can come.
    with suppress(h11.RemoteProtocolError):
        while isinstance(event := connection.next_event(), h11.Data):
            content += event.data
        if isinstance(event, h11.EndOfMessage):
            trailers, is_whole = list(event.headers), True
    return first, content, is_whole, trailers, connection.trailing_data[0], connection.their_state is not h11.MUST_CLOSE


def assert_same(ours: Message, theirs: Theirs, *, is_copy: bool) -> None:
    """Assert that a message means the same to us and to h11."""
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
        # What is not, to us, may be to h11, which takes some line feeds for line ends.
        assert they_are_done
        assert their_trailers == trailers
        assert is_copy or their_surplus == surplus
        # Of what is no connection any more, nothing need be said; we may be more careful.
        assert they_keep or not it.keep_alive or not is_http11


def written(message: Message, *, is_http11: bool) -> bytes:
    """Write a whole message anew."""
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
    """Check a request, or a response to a request with this method."""
    assert outcome(cut_up(data, seed), parse) == outcome([data], parse)
    try:
        message = read([data], parse)
    except BadMessage:
        return
    if message is None:
        return
    it, _, is_whole, trailers, _ = message
    if isinstance(it, Request):
        if it.is_http11 and b"host" not in it.by_name:
            # The gate refuses it.
            return
        role: type[h11.SERVER | h11.CLIENT] = h11.SERVER
    elif it.status == _SWITCHING_PROTOCOLS:
        # What comes after it is no HTTP; h11 refuses it unless it was asked for.
        return
    else:
        role = h11.CLIENT
    if {name for name, _ in trailers} & _FRAMING:
        # They are fields here, and do not go on.
        return
    assert_same(message, by_h11(data, role, method), is_copy=False)
    if is_whole:
        copy = written(message, is_http11=not isinstance(it, Request) or it.is_http11)
        assert_same(message, by_h11(copy, role, method), is_copy=True)
        again = outcome([copy], parse)
        assert again != "refused"
        assert again != "waits"


def check_chunks(data: bytes, seed: int) -> None:
    """Check a body in chunks."""

    def became(pieces: Pieces) -> object:
        body = ChunkedBody()
        try:
            content, surplus = read_body(body, pieces)
        except BadMessage:
            return "refused"
        return content, body.done, body.trailers, surplus

    whole = became([data])
    assert became(cut_up(data, seed)) == whole
    if isinstance(whole, tuple) and whole[1]:
        content, _, trailers, surplus = whole
        copy = (chunk(content) if content else b"") + last_chunk(lines(trailers)) + surplus
        assert became(cut_up(copy, seed)) == whole


def check(data: bytes) -> None:
    """Check what an input says. Raises AssertionError, or whatever is raised that is no BadMessage."""
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
    """Begin with what is known to be read in different ways."""
    directory.mkdir(parents=True, exist_ok=True)
    inputs = [b"\0" + entry.data for entry in CORPUS]
    inputs += [kind + data for kind in (b"\1", b"\2") for data in RESPONSES]
    inputs += [b"\3" + data for data in (b"5\r\nhello\r\n0\r\n\r\n", b"1;x\r\na\r\n0\r\nX: 1\r\n\r\nrest")]
    for number, data in enumerate(inputs):
        (directory / f"seed-{number}").write_bytes(data[:1] + bytes([number % 256]) + data[1:])


def main(directory: Path, options: list[str]) -> None:
    """Run with a directory of inputs, which grows, until libFuzzer's options or a finding end it."""
    write_seeds(directory)
    atheris.Setup([sys.argv[0], str(directory), f"-artifact_prefix={directory.parent}/", *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
