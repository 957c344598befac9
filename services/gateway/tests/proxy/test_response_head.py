"""Heads of responses: HTTP/1.0 clients, responses without a body, interim responses, `Date`."""

import pytest
from harness import (
    GatewayHarness,
    RecordingUpstream,
    parse_responses,
)
from proxy_routes import REQUEST_ROUTES

ROUTES = REQUEST_ROUTES

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

GET = b"GET /any/x HTTP/1.1\r\nHost: gw\r\n"

END = b"Connection: close\r\n\r\n"


async def test_http_1_0_clients_get_no_chunks(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    for line in (b"", b"Connection: keep-alive\r\n"):
        data = await harness.send_raw(b"GET /any/x HTTP/1.0\r\nHost: gw\r\n" + line + b"\r\n")
        (response,) = parse_responses(data)
        assert (response.status, response.body, response.interim) == (200, b"ok", [])
        assert response.values("transfer-encoding") == []
        assert data.endswith(b"\r\n\r\nok")


async def test_http_1_0_connections_persist_only_on_request(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    upstream.response = OK
    old = b"GET /any/x HTTP/1.0\r\nHost: gw\r\n"
    (response,) = parse_responses(await harness.send_raw(old + b"\r\n" + old + b"\r\n"))
    assert response.values("connection") == ["close"]
    first, second = parse_responses(
        await harness.send_raw(old + b"Connection: keep-alive\r\n\r\n" + old + b"\r\n"), "GET", "GET"
    )
    assert (first.values("connection"), second.values("connection")) == (["keep-alive"], ["close"])


@pytest.mark.parametrize("target", [b"/nothing", b"/livez", b"/any/x"])
async def test_responses_to_http_1_0_say_whether_the_connection_persists(
    harness: GatewayHarness, upstream: RecordingUpstream, target: bytes
) -> None:
    upstream.response = OK
    client = await harness.connect()
    for number in (1, 2):
        client.send(b"GET %b HTTP/1.0\r\nHost: gw\r\nConnection: keep-alive\r\n\r\n" % target)
        await client.wait_for(b"connection: keep-alive\r\n", number)
    client.received = b""
    client.send(b"GET %b HTTP/1.0\r\nHost: gw\r\n\r\n" % target)
    assert b"connection: close\r\n" in await client.wait_closed()


async def test_a_response_to_head_keeps_its_length(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
    head, _ = parse_responses(
        await harness.send_raw(b"HEAD /any/x HTTP/1.1\r\nHost: gw\r\n\r\nHEAD /any/x HTTP/1.1\r\nHost: gw\r\n" + END),
        "HEAD",
        "HEAD",
    )
    assert (head.values("content-length"), head.body) == (["1234"], b"")
    # The upstream may still send the body, which would be taken for the next response.
    assert len(upstream.connections) == 2


async def test_a_chunked_response_to_head_has_no_body(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(2):
        response = await harness.request("/any/x", method="HEAD")
        assert (response.status, response.values("content-length"), response.is_complete) == (200, [], True)
    assert len(upstream.connections) == 2


async def test_a_rejection_of_head_has_no_body(harness: GatewayHarness) -> None:
    response = await harness.request("/nothing", method="HEAD")
    assert (response.status, response.body) == (404, b"")
    assert int(response.values("content-length")[0]) > 0


async def test_204_has_no_body_and_no_length(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nETag: x\r\n\r\n"
    first, second = parse_responses(await harness.send_raw(GET + b"\r\n" + GET + END), "GET", "GET")
    for response in (first, second):
        assert (response.status, response.body, response.is_complete, response.values("etag")) == (
            204,
            b"",
            True,
            ["x"],
        )
        assert response.values("content-length") == response.values("transfer-encoding") == []


async def test_304_has_no_body(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n"
    first, second = parse_responses(await harness.send_raw(GET + b"\r\n" + GET + END), "GET", "GET")
    for response in (first, second):
        assert (response.status, response.body, response.is_complete, response.values("etag")) == (
            304,
            b"",
            True,
            ["x"],
        )
        assert response.values("content-length") in ([], ["5"])
        assert response.values("transfer-encoding") == []
    assert len(upstream.connections) == 2


async def test_interim_responses_are_relayed(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nServer: s\r\n\r\n"
    upstream.response = b"HTTP/1.1 100 Continue\r\n\r\n" + hints + hints + OK
    data = await harness.send_raw(GET + END)
    (response,) = parse_responses(data)
    assert (response.status, response.interim, response.body) == (200, [103, 103], b"ok")
    assert data.count(b"link: </style.css>; rel=preload\r\n") == 2
    assert b"server" not in data


async def test_an_unrequested_101_is_a_failure(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    )
    data = await harness.send_raw(b"GET /quick HTTP/1.1\r\nHost: gw\r\n" + END)
    assert data.startswith(b"HTTP/1.1 502 ")


async def test_a_missing_date_is_added(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = OK
    (date,) = (await harness.request("/any/x")).values("date")
    assert date.endswith(" GMT")
    upstream.response = OK.replace(b"\r\n\r\n", b"\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n")
    assert (await harness.request("/any/x")).values("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    for target in ("/nothing", "/livez"):
        assert len((await harness.request(target)).values("date")) == 1
