"""A request on a reused connection that the upstream has closed: RFC 9110 section 9.2.2, RFC 9112 section 9.3.1."""

import pytest
from harness import (
    GatewayHarness,
    RecordingUpstream,
    respond_and_close,
)
from harness.pool import RespondOncePerConnection, pool_a_connection

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT, DELETE, OPTIONS]}, upstream: up,
     access: public, timeouts: {connect: 0.3, first_byte: 2.0}, limits: {body_bytes: 100000000}}
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_safe_request_is_retried_when_a_reused_connection_was_closed(
    harness: GatewayHarness, upstream: RecordingUpstream, method: str
) -> None:
    await pool_a_connection(harness, upstream)
    upstream.response = RespondOncePerConnection(upstream, at_once=False)
    response = await harness.request("/any/y", method=method)
    assert (response.status, len(upstream.requests), len(upstream.connections)) == (200, 3, 2)


@pytest.mark.parametrize(
    ("method", "body"), [("POST", b""), ("POST", b"x"), ("PUT", b"x"), ("DELETE", b""), ("GET", b"x")]
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
