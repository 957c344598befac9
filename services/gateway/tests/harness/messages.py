"""Messages parsed by `ostiary_gateway.http1`, as a connection does it."""

from collections.abc import Iterable
from itertools import pairwise

from ostiary_gateway.http1.body import Body, ChunkedBody, ContentLengthBody
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request, Response, head_end, parse_request, parse_response

Outcomes = tuple[bytes, Fields, bytes] | str


def request(*lines: bytes, first: bytes = b"POST / HTTP/1.1") -> Request:
    """Read a request with these field lines."""
    return parse_request(b"\r\n".join([first, *lines]) + b"\r\n\r\n")


def response(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK", method: str = "GET") -> Response:
    """Read a response with these field lines."""
    return parse_response(b"\r\n".join([first, *lines]) + b"\r\n\r\n", method)


def parse_one(data: bytes) -> tuple[Request, bytes, bytes]:
    """Read one whole request, as a connection does; return it, its content and what comes after it."""
    end = head_end(data)
    assert end >= 0
    head = parse_request(data[:end])
    if head.body is None:
        return head, b"", data[end:]
    content, surplus = head.body.take(data[end:])
    assert head.body.done
    return head, content, surplus


def take(body: Body, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return content and surplus of a body that comes in these pieces."""
    content, surplus = b"", b""
    for piece in pieces:
        if body.done:
            surplus += piece
        else:
            got, surplus = body.take(piece)
            content += got
    return content, surplus


def dechunk(*pieces: bytes) -> tuple[bytes, Fields, bytes]:
    """Return content, trailers and surplus of a body in chunks that comes in these pieces."""
    body = ChunkedBody()
    content, surplus = take(body, pieces)
    assert body.done
    assert body.end()
    return content, body.trailers, surplus


def cut_up(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the pieces of `data` between these places."""
    places = sorted({0, len(data), *[cut % (len(data) + 1) for cut in cuts]})
    return [data[first:last] for first, last in pairwise(places)]


def take_all(pieces: list[bytes]) -> Outcomes:
    """Return what becomes of a body in chunks that comes in these pieces."""
    body = ChunkedBody()
    try:
        content, surplus = take(body, pieces)
    except BadMessage:
        return "refused"
    return (content, body.trailers, surplus) if body.done else f"waits after {content!r}"


def parse_head(pieces: list[bytes]) -> tuple[Request, bytes] | str:
    """Return what becomes of a head that comes in these pieces, and what follows it, read as a connection does."""
    data, searched = b"", 0
    try:
        for index, piece in enumerate(pieces):
            data += piece
            end = head_end(data, searched)
            searched = len(data)
            if end >= 0:
                return parse_request(data[:end]), data[end:] + b"".join(pieces[index + 1 :])
    except BadMessage:
        return "refused"
    return "waits"


def comparable(outcome: tuple[Request, bytes] | str) -> object:
    """Return all that can be compared of a head."""
    if isinstance(outcome, str):
        return outcome
    head, rest = outcome
    length = head.body.left if isinstance(head.body, ContentLengthBody) else None
    return (
        *(head.method, head.target, head.is_http11, head.fields, head.by_name, type(head.body), length),
        *(head.keep_alive, head.connection_options, head.expects_continue, rest),
    )
