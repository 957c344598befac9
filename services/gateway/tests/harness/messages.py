"""Parse messages with `ostiary_gateway.http1`, as a connection does."""

from collections.abc import Iterable
from itertools import pairwise

from ostiary_gateway.http1.body import Body, ChunkedBody, ContentLengthBody
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request, Response, head_end, parse_request, parse_response

#: Content, trailers and surplus of a complete body; else a text.
BodyOutcome = tuple[bytes, Fields, bytes] | str

#: A request and what follows its head; else a text.
HeadOutcome = tuple[Request, bytes] | str


def request(*lines: bytes, first: bytes = b"POST / HTTP/1.1") -> Request:
    """Parse a request with these field lines."""
    return parse_request(b"\r\n".join([first, *lines]) + b"\r\n\r\n")


def response(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK", method: str = "GET") -> Response:
    """Parse a response with these field lines."""
    return parse_response(b"\r\n".join([first, *lines]) + b"\r\n\r\n", method)


def parse_one(data: bytes) -> tuple[Request, bytes, bytes]:
    """Parse a complete request. Return its head, its content and what follows it."""
    end = head_end(data)
    assert end >= 0
    head = parse_request(data[:end])
    if head.body is None:
        return head, b"", data[end:]
    content, surplus = head.body.take(data[end:])
    assert head.body.done
    return head, content, surplus


def take(body: Body, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Decode a body that arrives in these pieces. Return its content and what follows it."""
    content, surplus = b"", b""
    for piece in pieces:
        if body.done:
            surplus += piece
        else:
            got, surplus = body.take(piece)
            content += got
    return content, surplus


def dechunk(*pieces: bytes) -> tuple[bytes, Fields, bytes]:
    """Decode a complete chunked body. Return its content, its trailers and what follows it."""
    body = ChunkedBody()
    content, surplus = take(body, pieces)
    assert body.done
    assert body.end()
    return content, body.trailers, surplus


def cut_up(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at these positions, taken modulo its length."""
    positions = sorted({0, len(data), *[cut % (len(data) + 1) for cut in cuts]})
    return [data[first:last] for first, last in pairwise(positions)]


def try_dechunk(pieces: list[bytes]) -> BodyOutcome:
    """Decode a chunked body that arrives in these pieces."""
    body = ChunkedBody()
    try:
        content, surplus = take(body, pieces)
    except BadMessage:
        return "rejected"
    return (content, body.trailers, surplus) if body.done else f"incomplete after {content!r}"


def try_parse(pieces: list[bytes]) -> HeadOutcome:
    """Parse a head that arrives in these pieces."""
    data, searched = b"", 0
    try:
        for index, piece in enumerate(pieces):
            data += piece
            end = head_end(data, searched)
            searched = len(data)
            if end >= 0:
                return parse_request(data[:end]), data[end:] + b"".join(pieces[index + 1 :])
    except BadMessage:
        return "rejected"
    return "incomplete"


def comparable(outcome: HeadOutcome) -> object:
    """Return what two equal heads have in common, whatever their objects."""
    if isinstance(outcome, str):
        return outcome
    head, rest = outcome
    length = head.body.left if isinstance(head.body, ContentLengthBody) else None
    return (
        *(head.method, head.target, head.is_http11, head.fields, head.by_name, type(head.body), length),
        *(head.keep_alive, head.connection_options, head.expects_continue, rest),
    )
