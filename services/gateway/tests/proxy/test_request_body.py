"""Request bodies: limits, expectations, chunks, trailers and timeouts."""

import asyncio

import pytest
from harness import (
    Clock,
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    settled,
    until,
)
from proxy_routes import REQUEST_ROUTES

from ostiary.testing import Issuer
from ostiary_gateway.proxy.downstream import (
    CONTENT_SECONDS,
    MIN_CONTENT_BYTES_PER_SECOND,
)

ROUTES = REQUEST_ROUTES

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"

POST = b"POST /any/x HTTP/1.1\r\nHost: gw\r\n"

END = b"Connection: close\r\n\r\n"


async def test_100_continue_is_sent_only_after_admission(
    harness: GatewayHarness, upstream: RecordingUpstream, issuer: Issuer
) -> None:
    head = b"POST /mine HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 4\r\n"
    (refused,) = parse_responses(await harness.send_raw(head + b"\r\n"), "POST")
    assert (refused.status, refused.interim, refused.values("connection")) == (401, [], ["close"])
    assert upstream.connections == []

    client = await harness.connect()
    client.send(head + b"Authorization: Bearer %b\r\n" % issuer.token().encode() + END)
    await client.wait_for(b"\r\n\r\n")
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"body")
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.status, response.interim, upstream.last.body) == (200, [100], b"body")
    assert upstream.last.values("expect") == []


@pytest.mark.parametrize(
    ("target", "length", "status"),
    [(b"/small", 101, 413), (b"/nothing", 1, 404), (b"/mine/", 1, 404), (b"//x", 1, 400)],
)
async def test_rejected_requests_get_no_100_continue(
    harness: GatewayHarness, upstream: RecordingUpstream, target: bytes, length: int, status: int
) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (target, length)
    (response,) = parse_responses(await harness.send_raw(head), "POST")
    assert (response.status, response.interim, response.values("connection")) == (status, [], ["close"])
    assert upstream.connections == []


async def test_an_unreachable_upstream_gets_no_100_continue(issuer: Issuer) -> None:
    async with GatewayHarness.open(ROUTES, "unix:/tmp/gw-no-such-socket", issuer.verifier()) as harness:
        (response,) = parse_responses(
            await harness.send_raw(POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"), "POST"
        )
        assert (response.status, response.interim) == (503, [])


async def test_chunked_bodies_are_limited(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    head = b"POST /small HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n"
    (response,) = parse_responses(
        await harness.send_raw(head + END + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n"), "POST"
    )
    assert (response.status, upstream.last.body) == (200, b"x" * 100)
    for body in (b"65\r\n" + b"x" * 101, b"64\r\n" + b"x" * 100 + b"\r\n1\r\nx", (b"1\r\nx\r\n") * 101 + b"0\r\n\r\n"):
        (response,) = parse_responses(await harness.send_raw(head + END + body), "POST")
        assert (response.status, response.code) == (413, "body_too_large")
    await until(lambda: all(each.is_closed for each in upstream.connections))
    assert [each.is_complete for each in upstream.requests] == [True, False, False, False]


async def test_a_length_over_the_limit_is_rejected_at_once(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    client = await harness.connect()
    client.send(b"POST /small HTTP/1.1\r\nHost: gw\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.status, response.code, response.values("connection")) == (413, "body_too_large", ["close"])
    assert upstream.connections == []


async def test_bodies_are_streamed(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    pieces: list[bytes] = []

    async def take(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        while not b"".join(pieces).endswith(b"0\r\n\r\n"):
            pieces.append(await request.connection.reader.read(1000))
        request.is_complete = True
        writer.write(OK)

    upstream.response, upstream.responds_before_body = take, True
    client = await harness.connect()
    client.send(POST + b"Transfer-Encoding: chunked\r\n" + END)
    for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"):
        client.send(piece)
        await until(lambda piece=piece: piece in b"".join(pieces))  # type: ignore[misc]  # a default
    assert parse_responses(await client.wait_closed(), "POST")[0].body == b"ok"


async def test_trailers_are_forwarded_in_both_directions(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;x=y\r\nok\r\n0\r\nX-Sum: 2\r\nContent-Length: 9\r\nServer: s\r\n\r\n"
    )
    body = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-User-Id: admin\r\nContent-Length: 7\r\nAuthorization: a\r\n\r\n"
    (response,) = parse_responses(await harness.send_raw(POST + b"Transfer-Encoding: chunked\r\n" + END + body), "POST")
    assert (response.body, response.trailers, response.is_complete) == (b"ok", [("x-sum", "2")], True)
    assert (upstream.last.body, upstream.last.trailers) == (b"hi", [("x-sum", "1")])


@pytest.mark.parametrize(
    "chunks",
    [
        *(b"x\r\n", b"-1\r\n", b"+1\r\nx\r\n", b"0x1\r\nx\r\n", b" 1\r\nx\r\n", b"1 \r\nx\r\n", b"1\nx\r\n", b"\r\n"),
        *(b"1\r\nxy\r\n", b"1\r\nx\n0\r\n\r\n", b"1\r\nx0\r\n\r\n", b"1;\x00\r\nx\r\n", b"1" * 16 + b"\r\n"),
        *(b"0\r\nX : y\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: y\nZ: a\r\n\r\n"),
        b"1;" + b"x" * 300 + b"\r\n",
        b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
    ],
)
async def test_ambiguous_chunks_end_the_request(
    harness: GatewayHarness, upstream: RecordingUpstream, chunks: bytes
) -> None:
    data = await harness.send_raw(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + GET + END)
    (response,) = parse_responses(data, "POST")
    assert response.status in {400, 431}
    assert response.values("connection") == ["close"]
    await until(lambda: all(each.is_closed for each in upstream.connections))
    assert not any(each.is_complete for each in upstream.requests)
    assert len(upstream.requests) <= 1


async def test_a_truncated_body_stays_incomplete(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    for head in (b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
        client = await harness.connect()
        count = len(upstream.requests)
        client.send(POST + head)
        await until(lambda count=count: len(upstream.requests) > count)  # type: ignore[misc]  # a default
        client.transport.write_eof()
        await client.wait_closed()
        await until(lambda: upstream.connections[-1].is_closed)
        assert not upstream.last.is_complete


async def test_a_stalled_body_times_out(harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock) -> None:
    client = await harness.connect()
    client.send(POST + b"Content-Length: 10\r\n\r\nhalf")
    await until(lambda: upstream.requests)
    clock.skip(CONTENT_SECONDS)
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.status, response.code, response.values("connection")) == (408, "body_timeout", ["close"])
    await until(lambda: upstream.connections[0].is_closed)
    assert not upstream.last.is_complete


async def test_a_dripping_body_times_out(harness: GatewayHarness, clock: Clock) -> None:
    client = await harness.connect()
    client.send(POST + b"Content-Length: 100000\r\n\r\n")
    for _ in range(4):
        client.send(b"drip")
        await settled(client.transport.get_write_buffer_size)
        clock.skip(CONTENT_SECONDS / 3)
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert (response.status, response.code) == (408, "body_timeout")


async def test_a_slow_but_steady_body_is_accepted(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    piece = b"x" * int(MIN_CONTENT_BYTES_PER_SECOND * CONTENT_SECONDS / 3)
    client = await harness.connect()
    client.send(POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (20 * len(piece)))
    for _ in range(20):
        clock.skip(CONTENT_SECONDS / 3)
        client.send(piece)
        await settled(client.transport.get_write_buffer_size)
    (response,) = parse_responses(await client.wait_closed(), "POST")
    assert response.status == 200
    assert upstream.last.body == 20 * piece
