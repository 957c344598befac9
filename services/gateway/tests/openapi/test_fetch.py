"""Documents of services, fetched for the command line."""

import asyncio

import pytest
from harness import RecordingUpstream

from ostiary_gateway.openapi.fetch import fetch_documents
from ostiary_gateway.routing.config import RoutesFile


@pytest.mark.parametrize(
    ("host", "sent"), [("client", "shop.example:8443"), ("upstream", "localhost"), ("up.internal", "up.internal")]
)
async def test_a_service_gets_a_host_that_it_accepts(upstream: RecordingUpstream, host: str, sent: str) -> None:
    upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    routes = RoutesFile.model_validate({"upstreams": {"up": {"url": upstream.url, "host": host}}, "routes": []})
    assert await asyncio.to_thread(fetch_documents, routes, [], "shop.example:8443") == {"up": {}}
    assert (upstream.last.target, upstream.last.values("host")) == ("/openapi.json", [sent])
