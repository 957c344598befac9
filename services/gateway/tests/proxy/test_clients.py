"""What clients may send, and what they get: RFC 9112, read strictly."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness import (
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

from ostiary.testing import Issuer
from ostiary_gateway.proxy.downstream import (
    CONTENT_SECONDS,
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    MIN_CONTENT_BYTES_PER_SECOND,
)

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT, DELETE, OPTIONS]}, upstream: up,
     access: public}
  - {name: quick, match: {path: /quick, methods: [GET, POST]}, upstream: up, access: public,
     timeouts: {first_byte: 0.2, idle: 0.2}}
  - {name: small, match: {path: /small, methods: [POST]}, upstream: up, access: public, limits: {body_bytes: 100}}
  - {name: mine, match: {path: /mine, methods: [GET, POST]}, upstream: up, access: authenticated}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"
POST = b"POST /any/x HTTP/1.1\r\nHost: gw\r\n"
END = b"Connection: close\r\n\r\n"


@pytest.fixture
async def harness(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness


# One after the other.


async def test_requests_on_one_connection_are_answered_in_order(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    async def late(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        if request.target == "/any/0":
            # Were they sent on at once, the next one would come now.
            await never(lambda: len(upstream.requests) > 1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + request.target.encode())

    upstream.response = late
    requests = [b"GET /any/%d HTTP/1.1\r\nHost: gw\r\n" % number for number in range(5)]
    data = await harness.send_raw(b"\r\n".join(requests) + END)
    assert [answer.body for answer in parse_responses(data, *["GET"] * 5)] == [
        b"/any/%d" % number for number in range(5)
    ]


async def test_requests_of_all_kinds_follow_each_other(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    line = await harness.connect()
    line.send(
        b"POST /any/1 HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\n\r\none"
        b"GET /nothing HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"GET /livez HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"POST /any/2 HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nt\r\n2;x=y\r\nwo\r\n0\r\n\r\n"
        b"GET /mine HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"HEAD /any/3 HTTP/1.1\r\nHost: gw\r\n\r\n"
        b"GET /any/4 HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"
    )
    given = parse_responses(await line.wait_closed(), "POST", "GET", "GET", "POST", "GET", "HEAD", "GET")
    assert [answer.status for answer in given] == [200, 404, 200, 200, 401, 200, 200]
    assert [each.body for each in upstream.requests] == [b"one", b"two", b"", b""]


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_a_request_may_come_in_any_pieces(
    harness: GatewayHarness, upstream: RecordingUpstream, size: int
) -> None:
    request = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n4;x\r\n two\r\n0\r\nX-Sum: 1\r\n\r\n" + GET + END
    line = await harness.connect()
    for start in range(0, len(request), size):
        line.send(request[start : start + size])
        await asyncio.sleep(0)
    assert [answer.status for answer in parse_responses(await line.wait_closed(), "POST", "GET")] == [200, 200]
    assert [each.body for each in upstream.requests] == [b"one two", b""]


async def test_nothing_after_the_last_request_is_answered(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    (answer,) = parse_responses(await harness.send_raw(GET + END + GET + END))
    assert (answer.status, len(upstream.requests)) == (200, 1)


async def test_a_client_that_has_much_to_ask_is_not_read_ahead(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = held = PausedResponse(then=OK)
    line = await harness.connect()
    count = 20_000
    line.send((GET + b"\r\n") * count)
    await until(lambda: upstream.requests)
    await never(lambda: not line.transport.get_write_buffer_size())
    held.resume()
    await line.wait_for(OK[-2:], 100)


# HTTP/1.0.


async def test_a_client_of_http_1_0_gets_no_chunks(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    for line in (b"", b"Connection: keep-alive\r\n"):
        data = await harness.send_raw(b"GET /any/x HTTP/1.0\r\nHost: gw\r\n" + line + b"\r\n")
        (answer,) = parse_responses(data)
        assert (answer.status, answer.body, answer.interim) == (200, b"ok", [])
        assert answer.values("transfer-encoding") == []
        assert data.endswith(b"\r\n\r\nok")


async def test_a_connection_of_http_1_0_is_kept_if_it_asks_for_that(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = OK
    old = b"GET /any/x HTTP/1.0\r\nHost: gw\r\n"
    (answer,) = parse_responses(await harness.send_raw(old + b"\r\n" + old + b"\r\n"))
    assert answer.values("connection") == ["close"]
    first, second = parse_responses(
        await harness.send_raw(old + b"Connection: keep-alive\r\n\r\n" + old + b"\r\n"), "GET", "GET"
    )
    assert (first.values("connection"), second.values("connection")) == (["keep-alive"], ["close"])


# Answers without a body.


async def test_an_answer_to_head_says_how_long_it_would_be(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
    head, _ = parse_responses(
        await harness.send_raw(b"HEAD /any/x HTTP/1.1\r\nHost: gw\r\n\r\nHEAD /any/x HTTP/1.1\r\nHost: gw\r\n" + END),
        "HEAD",
        "HEAD",
    )
    assert (head.values("content-length"), head.body) == (["1234"], b"")
    # What was announced may still come, and would be taken for the next answer.
    assert len(upstream.connections) == 2


async def test_an_answer_to_head_may_be_in_chunks_that_do_not_come(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(2):
        answer = await harness.request("/any/x", method="HEAD")
        assert (answer.status, answer.values("content-length"), answer.is_complete) == (200, [], True)
    assert len(upstream.connections) == 2


async def test_a_refusal_of_head_has_no_body(harness: GatewayHarness) -> None:
    answer = await harness.request("/nothing", method="HEAD")
    assert (answer.status, answer.body) == (404, b"")
    assert int(answer.values("content-length")[0]) > 0


async def test_an_answer_without_content_has_no_length(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nETag: x\r\n\r\n"
    first, second = parse_responses(await harness.send_raw(GET + b"\r\n" + GET + END), "GET", "GET")
    for answer in (first, second):
        assert (answer.status, answer.body, answer.is_complete, answer.values("etag")) == (204, b"", True, ["x"])
        assert answer.values("content-length") == answer.values("transfer-encoding") == []


async def test_an_answer_that_nothing_was_modified_has_no_body(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n"
    first, second = parse_responses(await harness.send_raw(GET + b"\r\n" + GET + END), "GET", "GET")
    for answer in (first, second):
        assert (answer.status, answer.body, answer.is_complete, answer.values("etag")) == (304, b"", True, ["x"])
        assert answer.values("content-length") in ([], ["5"])
        assert answer.values("transfer-encoding") == []
    assert len(upstream.connections) == 2


# Interim answers.


async def test_a_body_is_asked_for_only_after_admission(
    harness: GatewayHarness, upstream: RecordingUpstream, issuer: Issuer
) -> None:
    head = b"POST /mine HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 4\r\n"
    (refused,) = parse_responses(await harness.send_raw(head + b"\r\n"), "POST")
    assert (refused.status, refused.interim, refused.values("connection")) == (401, [], ["close"])
    assert upstream.connections == []

    line = await harness.connect()
    line.send(head + b"Authorization: Bearer %b\r\n" % issuer.token().encode() + END)
    await line.wait_for(b"\r\n\r\n")
    assert line.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.send(b"body")
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.status, answer.interim, upstream.last.body) == (200, [100], b"body")
    assert upstream.last.values("expect") == []


@pytest.mark.parametrize(
    ("target", "length", "status"),
    [(b"/small", 101, 413), (b"/nothing", 1, 404), (b"/mine/", 1, 404), (b"//x", 1, 400)],
)
async def test_a_body_that_is_not_wanted_is_not_asked_for(
    harness: GatewayHarness, upstream: RecordingUpstream, target: bytes, length: int, status: int
) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (target, length)
    (answer,) = parse_responses(await harness.send_raw(head), "POST")
    assert (answer.status, answer.interim, answer.values("connection")) == (status, [], ["close"])
    assert upstream.connections == []


async def test_a_body_for_an_upstream_that_is_not_there_is_not_asked_for(issuer: Issuer) -> None:
    async with GatewayHarness.open(ROUTES, "unix:/tmp/gw-there-is-nobody", issuer.verifier()) as harness:
        (answer,) = parse_responses(
            await harness.send_raw(POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"), "POST"
        )
        assert (answer.status, answer.interim) == (503, [])


async def test_an_upstreams_interim_answers_pass(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nServer: s\r\n\r\n"
    upstream.response = b"HTTP/1.1 100 Continue\r\n\r\n" + hints + hints + OK
    data = await harness.send_raw(GET + END)
    (answer,) = parse_responses(data)
    assert (answer.status, answer.interim, answer.body) == (200, [103, 103], b"ok")
    assert data.count(b"link: </style.css>; rel=preload\r\n") == 2
    assert b"server" not in data


async def test_an_upstream_cannot_change_the_protocol_unasked(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    )
    data = await harness.send_raw(b"GET /quick HTTP/1.1\r\nHost: gw\r\n" + END)
    assert data.startswith(b"HTTP/1.1 502 ")


# Bodies.


async def test_a_body_in_chunks_has_a_limit(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    head = b"POST /small HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n"
    (answer,) = parse_responses(await harness.send_raw(head + END + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n"), "POST")
    assert (answer.status, upstream.last.body) == (200, b"x" * 100)
    for body in (b"65\r\n" + b"x" * 101, b"64\r\n" + b"x" * 100 + b"\r\n1\r\nx", (b"1\r\nx\r\n") * 101 + b"0\r\n\r\n"):
        (answer,) = parse_responses(await harness.send_raw(head + END + body), "POST")
        assert (answer.status, answer.code) == (413, "body_too_large")
    await until(lambda: all(each.is_closed for each in upstream.connections))
    assert [each.is_complete for each in upstream.requests] == [True, False, False, False]


async def test_a_body_whose_length_is_over_the_limit_is_not_sent_on(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    line = await harness.connect()
    line.send(b"POST /small HTTP/1.1\r\nHost: gw\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.status, answer.code, answer.values("connection")) == (413, "body_too_large", ["close"])
    assert upstream.connections == []


async def test_a_body_goes_on_piece_by_piece(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    pieces: list[bytes] = []

    async def take(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        while not b"".join(pieces).endswith(b"0\r\n\r\n"):
            pieces.append(await request.connection.reader.read(1000))
        request.is_complete = True
        writer.write(OK)

    upstream.response, upstream.responds_before_body = take, True
    line = await harness.connect()
    line.send(POST + b"Transfer-Encoding: chunked\r\n" + END)
    for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"):
        line.send(piece)
        await until(lambda piece=piece: piece in b"".join(pieces))  # type: ignore[misc]  # a default
    assert parse_responses(await line.wait_closed(), "POST")[0].body == b"ok"


async def test_trailers_pass_in_both_directions(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;x=y\r\nok\r\n0\r\nX-Sum: 2\r\nContent-Length: 9\r\nServer: s\r\n\r\n"
    )
    body = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-User-Id: admin\r\nContent-Length: 7\r\nAuthorization: a\r\n\r\n"
    (answer,) = parse_responses(await harness.send_raw(POST + b"Transfer-Encoding: chunked\r\n" + END + body), "POST")
    assert (answer.body, answer.trailers, answer.is_complete) == (b"ok", [("x-sum", "2")], True)
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
async def test_chunks_that_could_be_read_in_two_ways_end_the_request(
    harness: GatewayHarness, upstream: RecordingUpstream, chunks: bytes
) -> None:
    data = await harness.send_raw(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + GET + END)
    (answer,) = parse_responses(data, "POST")
    assert answer.status in {400, 431}
    assert answer.values("connection") == ["close"]
    await until(lambda: all(each.is_closed for each in upstream.connections))
    assert not any(each.is_complete for each in upstream.requests)
    assert len(upstream.requests) <= 1


async def test_a_body_that_ends_early_is_not_taken_for_all_of_it(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    for head in (b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
        line = await harness.connect()
        count = len(upstream.requests)
        line.send(POST + head)
        await until(lambda count=count: len(upstream.requests) > count)  # type: ignore[misc]  # a default
        line.transport.write_eof()
        await line.wait_closed()
        await until(lambda: upstream.connections[-1].is_closed)
        assert not upstream.last.is_complete


# Framing that two servers could read in two ways (RFC 9112 section 11.2).


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
        (["Transfer-Encoding: xchunked"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: chunked, identity"], 501),
        (["Transfer-Encoding: chunked, chunked"], 501),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: \x0bchunked"], 400),
        (["Transfer-Encoding: chunked;q=1"], 501),
        (["Transfer-Encoding: 'chunked'"], 501),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], 400),
        (["Transfer-Encoding:"], 501),
        (["Host: other"], 400),
        (["Expect: 100-continue", "Expect: x"], 400),
        (["no colon"], 400),
        ([": no name"], 400),
        (["a b: c"], 400),
    ],
)
async def test_a_request_that_could_be_read_in_two_ways_goes_nowhere(
    harness: GatewayHarness, upstream: RecordingUpstream, lines: list[str], status: int
) -> None:
    head = "\r\n".join(["POST /any/x HTTP/1.1", "Host: gw", *lines, "", ""]).encode("latin-1")
    data = await harness.send_raw(head + b"0\r\n\r\nGET /any/smuggled HTTP/1.1\r\nHost: gw\r\n\r\n")
    (answer,) = parse_responses(data, "POST")
    assert (answer.status, answer.values("connection")) == (status, ["close"])
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET  /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x  HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET\t/any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b" GET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x y HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/\xc3\xa9 HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/\x00 HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.1 \r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x http/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.10\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.1\nHost: gw\n\n", 400),
        (b"GET /any/x HTTP/1.1\rHost: gw\r\r", 408),
        (b"G(T /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"\r\n\r\nGET /any/x HTTP/1.1\r\nHost: gw\r\n\r\n", 400),
        (b"GET /any/x HTTP/2.0\r\nHost: gw\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /any/x HTTP/0.9\r\nHost: gw\r\n\r\n", 505),
        (b"POST /any/x HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /any/x HTTP/1.1\r\nHost: gw\r\nX: " + b"y" * 33_000 + b"\r\n\r\n", 431),
        (b"GET /any/x HTTP/1.1\r\nHost: gw\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /any/" + b"x" * 70_000, 431),
    ],
)
async def test_what_is_not_plainly_a_request_goes_nowhere(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock, data: bytes, status: int
) -> None:
    line = await harness.connect()
    line.send(data)
    if status == 408:
        # It looks like the beginning of a head.
        await never(lambda: line.received)
        clock.skip(HEAD_SECONDS)
    (answer,) = parse_responses(await line.wait_closed())
    assert (answer.status, answer.values("connection")) == (status, ["close"])
    assert upstream.connections == []


async def test_one_empty_line_before_a_request_is_none(harness: GatewayHarness) -> None:
    given = parse_responses(await harness.send_raw(b"\r\n" + GET + b"\r\n\r\n" + GET + END), "GET", "GET")
    assert [answer.status for answer in given] == [200, 200]


# Time.


async def test_a_head_that_takes_too_long_is_refused(harness: GatewayHarness, clock: Clock) -> None:
    line = await harness.connect()
    line.send(GET)
    await never(lambda: line.received)
    clock.skip(HEAD_SECONDS)
    (answer,) = parse_responses(await line.wait_closed())
    assert (answer.status, answer.code) == (408, "head_timeout")


async def test_a_connection_on_which_nothing_comes_is_closed(harness: GatewayHarness, clock: Clock) -> None:
    silent, used = await harness.connect(), await harness.connect()
    used.send(GET + b"\r\n")
    await used.wait_for(b'"target"')
    clock.skip(HEAD_SECONDS)
    assert await silent.wait_closed() == b""
    await never(lambda: used.is_closed)
    clock.skip(KEEP_ALIVE_SECONDS - HEAD_SECONDS)
    assert parse_responses(await used.wait_closed())[0].status == 200


async def test_a_body_that_takes_too_long_is_refused(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    line = await harness.connect()
    line.send(POST + b"Content-Length: 10\r\n\r\nhalf")
    await until(lambda: upstream.requests)
    clock.skip(CONTENT_SECONDS)
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.status, answer.code, answer.values("connection")) == (408, "body_timeout", ["close"])
    await until(lambda: upstream.connections[0].is_closed)
    assert not upstream.last.is_complete


async def test_a_body_that_only_drips_is_refused(harness: GatewayHarness, clock: Clock) -> None:
    line = await harness.connect()
    line.send(POST + b"Content-Length: 100000\r\n\r\n")
    for _ in range(4):
        line.send(b"drip")
        await settled(line.transport.get_write_buffer_size)
        clock.skip(CONTENT_SECONDS / 3)
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert (answer.status, answer.code) == (408, "body_timeout")


async def test_a_body_that_takes_long_but_comes_is_taken(
    harness: GatewayHarness, upstream: RecordingUpstream, clock: Clock
) -> None:
    piece = b"x" * int(MIN_CONTENT_BYTES_PER_SECOND * CONTENT_SECONDS / 3)
    line = await harness.connect()
    line.send(POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (20 * len(piece)))
    for _ in range(20):
        clock.skip(CONTENT_SECONDS / 3)
        line.send(piece)
        await settled(line.transport.get_write_buffer_size)
    (answer,) = parse_responses(await line.wait_closed(), "POST")
    assert answer.status == 200
    assert upstream.last.body == 20 * piece
