"""A request on a reused connection that the upstream has closed: RFC 9110 section 9.2.2, RFC 9112 section 9.3.1."""

import asyncio
import os

import pytest
from harness import (
    GatewayHarness,
    ReceivedRequest,
    RecordingUpstream,
    respond_and_close,
    until,
)
from harness.pool import RespondOncePerConnection, pool_a_connection

from ostiary_gateway.proxy.exchange import MAX_KEPT_BYTES

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS]}, upstream: up,
     access: public, timeouts: {connect: 0.3, first_byte: 2.0}, limits: {body_bytes: 100000000}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("method", "body"),
    [("GET", b""), ("HEAD", b""), ("OPTIONS", b""), ("DELETE", b""), ("PUT", b"x"), ("DELETE", b"x"), ("GET", b"x")],
)
@pytest.mark.parametrize("framing", ["Content-Length: 1", "Transfer-Encoding: chunked"])
async def test_an_idempotent_request_is_retried_when_a_reused_connection_was_closed(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, body: bytes, framing: str
) -> None:
    await pool_a_connection(harness, upstream)
    upstream.response = RespondOncePerConnection(upstream, at_once=False)
    sent = b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n" if "chunked" in framing else body
    response = await harness.request("/any/y", *([framing] if body else []), method=method, body=sent if body else b"")
    assert (response.status, len(upstream.requests), len(upstream.connections)) == (200, 3, 2)
    assert [each.body for each in upstream.requests[1:]] == [body] * 2
    assert upstream.requests[1].head == upstream.requests[2].head
    assert upstream.requests[1].trailers == upstream.requests[2].trailers


async def test_content_that_is_still_coming_follows_what_is_sent_again(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await pool_a_connection(harness, upstream)
    again = RespondOncePerConnection(upstream, at_once=False)

    async def close_early(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        if request.connection is upstream.connections[0]:
            assert await request.connection.reader.readexactly(4) == b"some"
            writer.close()
        else:
            await request.read_body()
            await again(request, writer)

    upstream.response, upstream.responds_before_body = close_early, True
    client = await harness.connect()
    client.send(b"PUT /any/y HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\nsome")
    await until(lambda: len(upstream.connections) == 2)
    client.send(b" and more")
    await client.wait_for(b"\r\n\r\nok")
    assert upstream.last.body == b"some and more"
    assert client.received.count(b" 100 Continue") == 1


@pytest.mark.parametrize(
    ("method", "body"), [("POST", b""), ("POST", b"x"), ("PATCH", b"x"), ("PUT", b"x" * (MAX_KEPT_BYTES + 1))]
)
async def test_other_requests_are_not_retried(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str, body: bytes
) -> None:
    await pool_a_connection(harness, upstream)
    upstream.response = RespondOncePerConnection(upstream, at_once=False)
    response = await harness.request(
        "/any/y", *([f"Content-Length: {len(body)}"] if body else []), method=method, body=body
    )
    assert (response.status, response.code) == (502, "upstream_failed")
    assert (len(upstream.requests), len(upstream.connections)) == (2, 1)


async def test_a_connection_with_an_event_that_the_event_loop_has_not_seen_is_not_used(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await pool_a_connection(harness, upstream)
    (pool,) = harness.upstream().pools
    (connection,) = pool._idle
    assert connection.is_quiet()
    # The event waits for the next iteration of the event loop, as the end of the connection would.
    os.write(upstream.connections[0].writer.get_extra_info("socket").fileno(), b"x")
    assert connection.is_open
    assert not connection.is_quiet()
    assert pool._pop_idle(is_checked=True) is None
    assert (await harness.request("/any/y", method="POST")).status == 200


async def test_a_request_is_retried_once(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    await pool_a_connection(harness, upstream)
    upstream.response = respond_and_close()
    assert (await harness.request("/any/y")).status == 502
    assert (len(upstream.requests), len(upstream.connections)) == (3, 2)


async def test_a_request_with_a_partial_response_is_not_retried(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await pool_a_connection(harness, upstream)
    upstream.response = respond_and_close(b"HTTP/1.1 2")
    assert (await harness.request("/any/y")).status == 502
    assert len(upstream.requests) == 2


async def test_a_request_with_an_interim_response_was_not_sent_on_a_stale_connection(
    harness: GatewayHarness, upstream: RecordingUpstream
) -> None:
    await pool_a_connection(harness, upstream)
    upstream.response = respond_and_close(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    data = await harness.send_raw(b"GET /any/y HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    assert data.count(b"HTTP/1.1 502 ") == 1
    assert len(upstream.requests) == 2
