"""Retries: which requests are sent again, and how often."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import pytest
from harness import (
    Clock,
    ReceivedRequest,
    RecordingUpstream,
    settled,
    until,
)
from route_files import open_gateway

from ostiary.testing import Issuer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


class Script:
    """Sends one response after the other; None closes the connection."""

    def __init__(self, *parts: bytes | None) -> None:
        self.left = list(parts)

    async def __call__(self, _: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        part = self.left.pop(0)
        if part is None:
            writer.close()
        else:
            writer.write(part)


METHODS = "methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, PROPFIND, MKCOL, LOCK, BREW]"
RETRYING = (
    (
        f"name: again, match: {{path: /again, {METHODS}}}, upstream: up, access: public,"
        " retries: {attempts: 2, statuses: [503]}"
    ),
    f"name: once, match: {{path: /once, {METHODS}}}, upstream: up, access: public",
)


@pytest.mark.parametrize(
    ("parts", "status", "count"),
    [
        ((OK,), 200, 1),
        ((BUSY, OK), 200, 2),
        ((BUSY, BUSY, OK), 200, 3),
        ((BUSY, BUSY, BUSY), 503, 3),
        ((None, BUSY, OK), 200, 3),
        ((None, None, OK), 200, 3),
        ((None, None, None), 502, 3),
        ((OK.replace(b"200 OK", b"500 x"),), 500, 1),
        ((OK.replace(b"200 OK", b"404 x"),), 404, 1),
    ],
)
async def test_a_request_is_retried_up_to_the_routes_limit(
    issuer: Issuer, upstream: RecordingUpstream, parts: Iterable[bytes | None], status: int, count: int
) -> None:
    upstream.response = Script(*parts)
    async with open_gateway(issuer, upstream, *RETRYING) as it:
        response = await it.request("/again")
        assert (response.status, response.is_complete, len(upstream.requests)) == (status, True, count)
        assert response.values("content-length") == [str(len(response.body))]
        assert len({each.head for each in upstream.requests}) == 1


@pytest.mark.parametrize(
    ("method", "body", "count"),
    [
        ("GET", b"", 2),
        ("HEAD", b"", 2),
        ("OPTIONS", b"", 2),
        ("PUT", b"", 2),
        ("DELETE", b"", 2),
        ("PROPFIND", b"", 2),
        ("MKCOL", b"", 2),
        ("POST", b"", 1),
        ("PATCH", b"", 1),
        ("LOCK", b"", 1),
        ("BREW", b"", 1),
        ("PROPFIND", b"x", 1),
        ("PUT", b"x", 1),
        ("GET", b"x", 1),
    ],
)
async def test_only_idempotent_requests_without_a_body_are_retried(
    issuer: Issuer, upstream: RecordingUpstream, method: str, body: bytes, count: int
) -> None:
    empty = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    upstream.response = Script(empty, empty.replace(b"503 Busy", b"200 OK"))
    async with open_gateway(issuer, upstream, *RETRYING) as it:
        response = await it.request(
            "/again", *([f"Content-Length: {len(body)}"] if body else []), method=method, body=body
        )
        assert (response.status, len(upstream.requests)) == (200 if count == 2 else 503, count)


async def test_a_route_without_retries_sends_once(issuer: Issuer, upstream: RecordingUpstream) -> None:
    # A retry on a stale connection is allowed on any route.
    upstream.response = Script(BUSY, None, None)
    async with open_gateway(issuer, upstream, *RETRYING) as it:
        assert [(await it.request("/once")).status for _ in range(2)] == [503, 502]
        assert len(upstream.requests) == 3


async def test_a_failing_upstream_gets_few_retries(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.upstream.cluster.MAX_RETRY_BUDGET", 3.0)
    upstream.response = BUSY
    async with open_gateway(issuer, upstream, *RETRYING) as it:
        for _ in range(50):
            assert (await it.request("/again")).status == 503
        # A fifth of the requests, and the initial budget.
        assert 50 + 10 <= len(upstream.requests) <= 50 + 10 + 3


async def test_nothing_is_retried_after_the_total_timeout(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    async def wait(request: ReceivedRequest, _: asyncio.StreamWriter) -> None:
        clock.skip(0.3)
        await request.connection.wait_closed()

    upstream.response = wait
    route = (
        "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public, retries: {attempts: 3},"
        " timeouts: {total: 0.2}"
    )
    async with open_gateway(issuer, upstream, route) as it:
        assert (await it.request("/a")).status == 504
        assert len(upstream.requests) == 1


async def test_a_request_that_times_out_in_the_queue_is_not_queued_twice(
    issuer: Issuer, upstream: RecordingUpstream, clock: Clock
) -> None:
    goes_on = asyncio.Event()

    def times_again() -> int:
        return [each.target for each in upstream.requests].count("/again")

    async def wait(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo")
        if request.target == "/again":
            await settled(times_again)
        writer.write(b"ne")

    upstream.response = wait
    route = (
        "name: again, match: {path: /again, methods: [GET]}, upstream: up, access: public, retries: {attempts: 1},"
        " timeouts: {connect: 0.2}"
    )
    async with open_gateway(issuer, upstream, route, RETRYING[1]) as it:
        it.limit_connections(2)
        others = [asyncio.create_task(it.request("/once")) for _ in range(2)]
        await until(lambda: len(upstream.requests) == 2)
        client = await it.connect()
        client.send(b"GET /again HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
        (pool,) = it.gateway.runtime.current.upstreams["up"].pools
        await until(lambda: pool._queue._waiting)
        clock.skip(0.3)
        with suppress(TimeoutError):
            await until(lambda: len(pool._queue._waiting) > 1 or client.is_closed)
        goes_on.set()
        assert [response.body for response in await asyncio.gather(*others)] == [b"done"] * 2
        data = await client.wait_closed()
        assert data.count(b"HTTP/1.1 ") == 1, data
        assert times_again() <= 1
