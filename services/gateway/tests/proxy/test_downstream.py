"""Client connections: framing, order of requests, timeouts and lingering close."""

import asyncio
import socket

import pytest
from harness import (
    CapturedAccessLog,
    Clock,
    GatewayHarness,
    PausedResponse,
    ReceivedRequest,
    RecordingUpstream,
    never,
    parse_responses,
    settled,
    until,
)
from proxy_routes import REQUEST_ROUTES

from ostiary_gateway.proxy.downstream import (
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
)
from ostiary_gateway.proxy.slow_reader import LINGER_SECONDS, MAX_LINGER_SECONDS

ROUTES = REQUEST_ROUTES

GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"

POST = b"POST /any/x HTTP/1.1\r\nHost: gw\r\n"

END = b"Connection: close\r\n\r\n"

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_pipelined_requests_are_answered_in_order(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    async def late(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        if request.target == "/any/0":
            # If requests were forwarded concurrently, the next one would arrive now.
            await never(lambda: len(upstream.requests) > 1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + request.target.encode())

    upstream.response = late
    requests = [b"GET /any/%d HTTP/1.1\r\nHost: gw\r\n" % number for number in range(5)]
    data = await harness.send_raw(b"\r\n".join(requests) + END)
    assert [response.body for response in parse_responses(data, *["GET"] * 5)] == [
        b"/any/%d" % number for number in range(5)
    ]


async def test_requests_of_all_kinds_may_be_pipelined(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    client = await harness.connect()
    client.send(
        b"POST /any/1 HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\n\r\none"
        b"GET /nothing HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"GET /livez HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"POST /any/2 HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nt\r\n2;x=y\r\nwo\r\n0\r\n\r\n"
        b"GET /mine HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"HEAD /any/3 HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"GET /any/4 HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"
    )
    responses = parse_responses(await client.wait_closed(), "POST", "GET", "GET", "POST", "GET", "HEAD", "GET")
    assert [response.status for response in responses] == [200, 404, 200, 200, 401, 200, 200]
    assert [each.body for each in upstream.requests] == [b"one", b"two", b"", b""]


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_a_request_may_arrive_in_pieces_of_any_size(
    harness: GatewayHarness, upstream: RecordingUpstream, size: int
) -> None:
    request = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n4;x\r\n two\r\n0\r\nX-Sum: 1\r\n\r\n" + GET + END
    client = await harness.connect()
    for start in range(0, len(request), size):
        client.send(request[start : start + size])
        await asyncio.sleep(0)
    assert [response.status for response in parse_responses(await client.wait_closed(), "POST", "GET")] == [200, 200]
    assert [each.body for each in upstream.requests] == [b"one two", b""]


async def test_requests_after_connection_close_are_ignored(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    (response,) = parse_responses(await harness.send_raw(GET + END + GET + END))
    assert (response.status, len(upstream.requests)) == (200, 1)


async def test_reading_pauses_while_a_request_is_pending(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = held = PausedResponse(then=OK)
    client = await harness.connect()
    count = 20_000
    client.send((GET + b"\r\n") * count)
    await until(lambda: upstream.requests)
    await never(lambda: not client.transport.get_write_buffer_size())
    held.resume()
    await client.wait_for(OK[-2:], 100)


async def test_an_empty_line_before_a_request_is_ignored(harness: GatewayHarness) -> None:
    responses = parse_responses(await harness.send_raw(b"\r\n" + GET + b"\r\n\r\n" + GET + END), "GET", "GET")
    assert [response.status for response in responses] == [200, 200]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: 6", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Content-Length: 6"], 400),
        (["Content-Length: 6", "Content-Length: 6"], 400),
        (["Content-Length: 6", "Content-Length: 0"], 400),
        (["Content-Length: 6, 6"], 400),
        (["Content-Length: +6"], 400),
        (["Content-Length: -6"], 400),
        (["Content-Length: 0x6"], 400),
        (["Content-Length: 6 6"], 400),
        (["Content-Length: \xb2"], 400),
        (["Content-Length: 1_0"], 400),
        (["Content-Length:"], 400),
        (["Content-Length: 99999999999999999999"], 400),
        (["Content-Length : 6"], 400),
        (["Content-Length\t: 6"], 400),
        ([" Content-Length: 6"], 400),
        (["X: y", " Transfer-Encoding: chunked"], 400),
        (["X: y\rTransfer-Encoding: chunked"], 400),
        (["X: y\nTransfer-Encoding: chunked"], 400),
        (["X: y\0"], 400),
        (["Transfer-Encoding : chunked"], 400),
        (["Transfer-Encoding: xchunked"], 400),
        (["Transfer-Encoding: identity"], 400),
        (["Transfer-Encoding: chunked, identity"], 400),
        (["Transfer-Encoding: chunked, chunked"], 400),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: \x0bchunked"], 400),
        (["Transfer-Encoding: chunked;q=1"], 400),
        (["Transfer-Encoding: 'chunked'"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], 400),
        (["Transfer-Encoding:"], 400),
        (["Transfer-Encoding: chunked, gzip"], 400),
        (["Host: other"], 400),
        (["Expect: 100-continue", "Expect: x"], 400),
        (["no colon"], 400),
        ([": no name"], 400),
        (["a b: c"], 400),
    ],
)
async def test_ambiguous_framing_is_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, lines: list[str], status: int
) -> None:
    head = "\r\n".join(["POST /any/x HTTP/1.1", "Host: gw", *lines, "", ""]).encode("latin-1")
    data = await harness.send_raw(head + b"0\r\n\r\nGET /any/smuggled HTTP/1.1\r\nHost: gw\r\n\r\n")
    (response,) = parse_responses(data, "POST")
    assert (response.status, response.values("connection")) == (status, ["close"])
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET  /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x  HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET\t/any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b" GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x y HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/\x00 HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.1 \r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x http/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.10\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.1\nHost: gw\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /any/x HTTP/1.1\rHost: gw\r\r", 400),
        (b"GET /any/x HTTP/1.1\nHost: gw\n", 400),
        (b"GET /any/x HTTP/1.1\r\nHost: gw\r", 408),
        (b"G(T /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"\r\n\r\nGET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x HTTP/2.0\r\nHost: gw\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /any/x HTTP/0.9\r\nHost: gw\r\n\r\n", 505),
        (b"POST /any/x HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.1\r\nHost: gw\r\nX: " + b"y" * 33_000 + b"\r\n\r\n", 431),
        (b"GET /any/x HTTP/1.1\r\nHost: gw\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /any/" + b"x" * 70_000, 414),
    ],
)
async def test_malformed_heads_are_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, data: bytes, status: int
) -> None:
    client = await harness.connect()
    client.send(data)
    if status == 408:
        # It could be the beginning of a head.
        await never(lambda: client.received)
        clock.skip(HEAD_SECONDS)
    (response,) = parse_responses(await client.wait_closed())
    assert (response.status, response.values("connection")) == (status, ["close"])
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET /any/x HTTP/1.1\nHost: gw\n\n", "lines end with LF instead of CRLF"),
        (
            POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "both Transfer-Encoding and Content-Length",
        ),
        (GET + b"X: y\r\n" * 200 + b"\r\n", "the fields to 128"),
    ],
)
async def test_the_response_says_what_is_wrong(harness: GatewayHarness, data: bytes, reason: str) -> None:
    (response,) = parse_responses(await harness.send_raw(data))
    assert reason in response.body.decode()


async def test_a_slow_head_times_out(harness: GatewayHarness, clock: Clock) -> None:
    client = await harness.connect()
    client.send(GET)
    await never(lambda: client.received)
    clock.skip(HEAD_SECONDS)
    (response,) = parse_responses(await client.wait_closed())
    assert (response.status, response.code) == (408, "head_timeout")


async def test_idle_connections_are_closed(harness: GatewayHarness, clock: Clock) -> None:
    silent, used = await harness.connect(), await harness.connect()
    used.send(GET + b"\r\n")
    await used.wait_for(b'"target"')
    clock.skip(HEAD_SECONDS)
    assert await silent.wait_closed() == b""
    await never(lambda: used.is_closed)
    clock.skip(KEEP_ALIVE_SECONDS - HEAD_SECONDS)
    assert parse_responses(await used.wait_closed())[0].status == 200


@pytest.mark.parametrize(
    ("data", "status", "decision"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "invalid_request",
        ),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "unknown_version"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHo", 408, "head_timeout"),
    ],
)
async def test_malformed_requests_are_logged_and_counted(
    harness: GatewayHarness, clock: Clock, data: bytes, status: int, decision: str
) -> None:
    counted = f'http_requests_total{{method="other",route="unmatched",status="{status}"}} '
    assert counted not in (await harness.client.get("/metrics")).text
    client, _ = await harness.connect_both_sides()
    log = CapturedAccessLog(harness)
    logged = await harness.connect("192.0.2.9")
    for each in (client, logged):
        each.send(data)
    if status == 408:
        await never(lambda: client.received)
        clock.skip(HEAD_SECONDS)
    (response,) = parse_responses(await client.wait_closed())
    await logged.wait_closed()
    assert (response.status, response.code) == (status, decision)
    assert counted in (await harness.client.get("/metrics")).text
    (entry,) = log.lines
    assert (entry["status"], entry["decision"], entry["client"]) == (status, decision, "192.0.2.9")
    assert (entry["method"], entry["route"]) == ("other", "unmatched")
    assert entry["request_id"]


async def test_data_after_the_last_response_is_discarded(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = OK
    client, connection = await harness.connect_both_sides()
    client.send(GET + END)
    await client.wait_for(b"\r\n\r\nok")
    await until(lambda: connection._lingering)
    # Only the gateway's side is closed for writing: no reset loses the response.
    client.send(b"x" * 1_000_000)
    await until(lambda: connection._lingering and connection._lingering.discarded == 1_000_000)
    assert len(upstream.requests) == 1


async def test_a_client_that_does_not_close_is_closed_after_lingering(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.ClientSocket.eof_received", lambda _: True, raising=False)
    upstream.response = OK
    client, connection = await harness.connect_both_sides()
    client.send(GET + END)
    await until(lambda: connection._lingering)
    await never(lambda: client.is_closed)
    # The first period ends when the client has read all; the second when it must have closed.
    for _ in range(2):
        clock.skip(LINGER_SECONDS)
        await settled(lambda: len(harness.transports))
    await until(lambda: not harness.transports)


async def test_a_client_that_goes_on_sending_is_waited_for_but_not_for_ever(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.ClientSocket.eof_received", lambda _: True, raising=False)
    upstream.response = OK
    client, connection = await harness.connect_both_sides()
    client.send(GET + END)
    await until(lambda: connection._lingering)

    async def send_for_a_while() -> None:
        assert connection._lingering is not None
        before, deadline = connection._lingering.discarded, connection.deadline
        client.send(b"x" * 100_000)
        await until(lambda: connection._lingering and connection._lingering.discarded == before + 100_000)
        clock.skip(LINGER_SECONDS)
        await until(lambda: connection.deadline > deadline or not harness.transports)

    for _ in range(int(MAX_LINGER_SECONDS / LINGER_SECONDS) - 1):
        await send_for_a_while()
        assert harness.transports
    await send_for_a_while()
    await until(lambda: not harness.transports)


async def test_the_gateway_closes_after_the_client_does(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = OK
    client = await harness.connect()
    client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n")
    await client.wait_for(b"ok")
    sock: socket.socket = client.transport.get_extra_info("socket")
    assert sock.fileno() > 0
    client.transport.close()
    await until(lambda: not harness.transports)
