"""Heads over the default limit: for the routes and upstreams that allow them, and for no other."""

import pytest
from harness import GatewayHarness, RecordingUpstream, until

from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES, DEFAULT_RESPONSE_HEAD_BYTES

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
  wide: {url: "${UPSTREAM}", header_bytes: 1048576}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET]}, upstream: up, access: public}
  - {name: wide, match: {path: /wide, methods: [GET, POST]}, upstream: wide, access: public,
     limits: {header_bytes: 1048576}}
  - {name: narrow, match: {path: /narrow, methods: [GET]}, upstream: up, access: public, limits: {header_bytes: 1000}}
"""

LARGE = "x" * 550_000


async def test_a_route_may_take_large_heads(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    for _ in range(2):
        assert (await harness.request("/wide", f"X-Ticket: {LARGE}")).status == 200
        assert upstream.last.values("x-ticket") == [LARGE]
        assert (await harness.request(f"/wide?q={LARGE}")).status == 200
        assert upstream.last.target == f"/wide?q={LARGE}"
    await until(lambda: harness.gateway._manager.large_heads.bytes == 0)


@pytest.mark.parametrize("path", ["/any/x", "/livez", "/narrow"])
async def test_other_paths_take_none(harness: GatewayHarness, upstream: RecordingUpstream, path: str) -> None:
    for size in (DEFAULT_HEAD_BYTES, 900_000):
        response = await harness.request(path, f"X-Ticket: {'x' * size}")
        assert (response.status, response.code) == (431, "head_too_large")
        response = await harness.request(f"{path}?q={'x' * size}")
        assert (response.status, response.code) == (414, "target_too_long")
    assert upstream.requests == []
    assert (await harness.request(path, "X-Ticket: x")).status == 200


async def test_a_head_over_every_limit_is_rejected(harness: GatewayHarness) -> None:
    response = await harness.request("/wide", f"X-Ticket: {LARGE}", f"X-Other: {LARGE}")
    assert (response.status, response.code) == (431, "head_too_large")
    response = await harness.request(f"/wide?q={LARGE}{LARGE}")
    assert (response.status, response.code) == (414, "target_too_long")
    await until(lambda: harness.gateway._manager.large_heads.bytes == 0)


async def test_large_heads_are_refused_while_there_are_too_many(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.proxy.head_reader.MAX_LARGE_HEAD_BYTES", 700_000)
    client = await harness.connect()
    client.send(b"GET /wide HTTP/1.1\r\nHost: gw\r\nX: " + LARGE.encode())
    await until(lambda: harness.gateway._manager.large_heads.bytes > 500_000)
    response = await harness.request("/wide", f"X-Ticket: {LARGE}")
    assert (response.status, response.code, response.values("retry-after")) == (503, "too_many_large_heads", ["1"])
    client.transport.close()
    await until(lambda: harness.gateway._manager.large_heads.bytes == 0)
    assert (await harness.request("/wide", f"X-Ticket: {LARGE}")).status == 200


@pytest.mark.parametrize(("path", "size"), [("/any/x", DEFAULT_RESPONSE_HEAD_BYTES - 100), ("/wide", 900_000)])
async def test_an_upstream_may_send_large_heads(
    harness: GatewayHarness, upstream: RecordingUpstream, path: str, size: int
) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nX-Policy: %b\r\nContent-Length: 2\r\n\r\nok" % (b"x" * size)
    for _ in range(2):
        response = await harness.request(path)
        assert (response.status, response.body, len(response.values("x-policy")[0])) == (200, b"ok", size)


async def test_an_upstream_may_not_send_more(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nX-Policy: %b\r\nContent-Length: 2\r\n\r\nok" % (b"x" * 2_000_000)
    for path in ("/any/x", "/wide"):
        assert (await harness.request(path)).status == 502
