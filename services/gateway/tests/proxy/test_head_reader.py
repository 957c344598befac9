"""Heads of requests: each is the client's own, also the first of a connection, whatever it is."""

import time

import pytest
from harness import GatewayHarness, RecordingUpstream, until
from proxy_routes import REQUEST_ROUTES

from ostiary_gateway.access.request import RequestIds
from ostiary_gateway.http1.errors import BadMessage, LineTooLong, NoRoom, TooLarge
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES, MAX_HEAD_BYTES
from ostiary_gateway.proxy.head_reader import MAX_KEPT_HEAD, HeadReader, LargeHeads

ROUTES = REQUEST_ROUTES


def reader_of(large_heads: LargeHeads | None = None) -> HeadReader:
    return HeadReader(RequestIds(), large_heads or LargeHeads())


HEADS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n",
    b"- - HTTP/1.1\r\n\r\n",
    b"- - HTTP/1.1\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS)
def test_the_first_head_has_its_own_context(head: bytes) -> None:
    reader = reader_of()
    ids = set()
    for _ in range(2):
        context, rest = reader.read(head + b"rest", "192.0.2.1")
        assert context is not None
        assert rest == b"rest"
        assert (context.client, context.scheme) == ("192.0.2.1", b"http")
        ids.add(context.request_id)
    assert len(ids - {b""}) == 2


@pytest.mark.parametrize("head", HEADS)
def test_connections_share_no_request(head: bytes) -> None:
    first, second = (reader_of().read(head, "192.0.2.1")[0] for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.request is not second.request


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\nHost: gw\n",
        b"GET / HTTP/1.1\rHost: gw",
        b"GET / HTTP/1.1\r\r\n",
        b"GET / HTTP/1.1\r\nHost: gw\r\nX: a\nY: b\r\n",
        b"GET / HTTP/1.1\r\nHost: gw\r\nX: a\rb\r\n",
        b"\nGET / HTTP/1.1\r\n",
    ],
)
def test_a_broken_line_end_is_an_error_before_the_head_is_complete(data: bytes) -> None:
    """RFC 9112 section 2.2: the client waits for an answer, or for us to take its lines for others."""
    whole = reader_of()
    with pytest.raises(BadMessage, match=r"lines must end with CRLF|lines end with LF"):
        whole.read(data, "192.0.2.1")
    pieces = reader_of()
    with pytest.raises(BadMessage, match=r"lines must end with CRLF|lines end with LF"):  # noqa: PT012 - any of them
        for index in range(len(data)):
            assert pieces.read(data[index : index + 1], "192.0.2.1") == (None, b"")


def test_a_head_may_arrive_in_any_pieces() -> None:
    data = b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n"
    for size in (1, 2, 3, 15, 16):
        reader = reader_of()
        read = [reader.read(data[start : start + size], "192.0.2.1")[0] for start in range(0, len(data), size)]
        assert [each is not None for each in read] == [False] * (len(read) - 1) + [True]


def test_a_repeated_head_is_parsed_once() -> None:
    reader = reader_of()
    for head, is_kept in ((HEADS[2], True), (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_KEPT_HEAD + b"\r\n\r\n", False)):
        first, second = (reader.read(head, "192.0.2.1")[0] for _ in range(2))
        assert first is not None
        assert second is not None
        assert (first.request is second.request) is is_kept


async def test_connections_share_no_response(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 204 No Content\r\n\r\n"
    (pool,) = harness.upstream().pools
    first, second = await harness.connect(), await harness.connect()
    for client in (first, second):
        client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n" * 2)
    for client in (first, second):
        await client.wait_for(b" 204 ", 2)
    await until(lambda: not pool.busy)
    responses = [connection._last[2] for connection in pool._open if connection._last is not None]
    assert len({id(response) for response in responses}) == len(pool._open)


def large_head(size: int) -> bytes:
    """Return a head of so many bytes, without the CRLFs that end it."""
    start = b"GET / HTTP/1.1\r\nX: "
    return start + b"x" * (size - len(start)) + b"\r\n\r\n"


@pytest.mark.parametrize("limit", [DEFAULT_HEAD_BYTES, 100_000, MAX_HEAD_BYTES])
@pytest.mark.parametrize("piece", [MAX_HEAD_BYTES * 2, 10_000, 777])
def test_a_head_may_have_as_many_bytes_as_allowed(limit: int, piece: int) -> None:
    for size in (limit, limit + 1):
        reader, head = reader_of(), large_head(size)
        pieces = [head[start : start + piece] for start in range(0, len(head), piece)]
        for part in pieces[:-1]:
            assert reader.read(part, "192.0.2.1", limit) == (None, b"")
        if size > limit:
            with pytest.raises(TooLarge):
                reader.read(pieces[-1], "192.0.2.1", limit)
        else:
            context, rest = reader.read(pieces[-1] + b"rest", "192.0.2.1", limit)
            assert context is not None
            assert (context.request.size, rest) == (len(head), b"rest")


def test_a_head_that_comes_byte_by_byte_is_read_in_linear_time() -> None:
    reader, head = reader_of(), large_head(300_000)
    began = time.process_time()
    for position in range(len(head) - 1):
        reader.read(head[position : position + 1], "192.0.2.1", MAX_HEAD_BYTES)
    assert reader.read(head[-1:], "192.0.2.1", MAX_HEAD_BYTES)[0] is not None
    assert time.process_time() - began < 3


def test_a_request_line_that_is_too_long_is_told_apart() -> None:
    with pytest.raises(LineTooLong):
        reader_of().read(b"GET /" + b"x" * DEFAULT_HEAD_BYTES, "192.0.2.1")
    with pytest.raises(LineTooLong):
        reader_of().read(b"\r\nGET /" + b"x" * DEFAULT_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", "192.0.2.1")


def test_large_heads_share_a_limited_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.head_reader.MAX_LARGE_HEAD_BYTES", 250_000)
    heads, head = LargeHeads(), large_head(100_000)
    first, second, third = (reader_of(heads) for _ in range(3))
    first.read(head, "192.0.2.1", MAX_HEAD_BYTES)
    for start in (0, 40_000):
        second.read(head[start : start + 40_000], "192.0.2.1", MAX_HEAD_BYTES)
    assert heads.bytes == len(head) + 80_000
    with pytest.raises(NoRoom):
        third.read(head, "192.0.2.1", MAX_HEAD_BYTES)
    # Others do not count.
    third.drop()
    assert third.read(HEADS[0], "192.0.2.1", MAX_HEAD_BYTES)[0] is not None
    first.release()
    second.drop()
    assert heads.bytes == 0
    assert third.read(head, "192.0.2.1", MAX_HEAD_BYTES)[0] is not None
