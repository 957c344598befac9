"""Heads of requests: each is the client's own, also the first of a connection, whatever it is."""

import pytest
from harness import GatewayHarness, RecordingUpstream, until
from proxy_routes import REQUEST_ROUTES

from ostiary_gateway.access.request import RequestIds
from ostiary_gateway.proxy.head_reader import MAX_KEPT_HEAD, HeadReader

ROUTES = REQUEST_ROUTES

HEADS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n",
    b"- - HTTP/1.1\r\n\r\n",
    b"- - HTTP/1.1\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS)
def test_the_first_head_has_its_own_context(head: bytes) -> None:
    reader = HeadReader(RequestIds())
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
    first, second = (HeadReader(RequestIds()).read(head, "192.0.2.1")[0] for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.request is not second.request


def test_a_repeated_head_is_parsed_once() -> None:
    reader = HeadReader(RequestIds())
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
