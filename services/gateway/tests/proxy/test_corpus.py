"""The corpus of requests that servers parse differently, sent through a gateway to an upstream."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
import pytest_asyncio
from corpus import CORPUS, Decider, Entry, Outcome
from harness import (
    GatewayHarness,
    ReceivedRequest,
    ReceivedResponse,
    RecordingUpstream,
    UpstreamSocket,
    parse_responses,
    short_directory,
    until,
)

from ostiary.testing import Issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = """\
hosts_internal: [gateway]
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: pub, match: {path: /pub, methods: [GET, POST]}, upstream: up, access: public}
  - {name: pubs, match: {path: "/pub/{rest...}", methods: [GET, POST]}, upstream: up, access: public}
  - {name: admin, match: {path: /admin, methods: [GET, POST]}, upstream: up, access: {roles: [admin]}}
  - {name: admins, match: {path: "/admin/{rest...}", methods: [GET, POST]}, upstream: up, access: {roles: [admin]}}
"""

_numbers = itertools.count(1)


@dataclass
class Site:
    """A gateway, its upstream, and another client."""

    harness: GatewayHarness
    upstream: RecordingUpstream

    async def check_other_client(self) -> UpstreamSocket:
        """Check that another client gets its own response. Return the upstream connection that was used."""
        target = f"/pub/other-{next(_numbers)}"
        before = len(self.upstream.requests)
        client = await self.harness.connect()
        client.send(f"GET {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
        (response,) = parse_responses(await client.wait_closed())
        assert (response.status, response.is_complete) == (200, True)
        assert json.loads(response.body) == {"target": target, "body": ""}
        assert [each.target for each in self.upstream.requests[before:]] == [target]
        # The connection is idle again.
        (pool,) = self.harness.gateway.runtime.current.upstreams["up"].pools
        await until(lambda: pool._idle)
        return self.upstream.last.connection

    async def send(self, data: bytes) -> tuple[ReceivedResponse, bytes]:
        """Send bytes. Return the response, and all bytes received until it was complete."""
        client = await self.harness.connect()
        client.send(data)
        await until(lambda: client.is_closed or _is_whole(client.received))
        response = _first(client.received)
        if response.values("connection") == ["close"]:
            await client.wait_closed()
        client.transport.abort()
        return response, client.received


def _first(data: bytes) -> ReceivedResponse:
    """Parse one response leniently."""
    head, _, body = data.partition(b"\r\n\r\n")
    client, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in lines)]
    return ReceivedResponse(int(client.split(" ")[1]), fields, body)


def _is_whole(data: bytes) -> bool:
    if b"\r\n\r\n" not in data:
        return False
    response = _first(data)
    return response.status >= 200 and len(response.body) >= int(response.values("content-length")[0])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(issuer: Issuer) -> AsyncIterator[Site]:
    with short_directory() as directory:
        async with (
            RecordingUpstream(directory / "up") as upstream,
            GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness,
        ):
            yield Site(harness, upstream)


def entries(outcome: Outcome, *deciders: Decider) -> pytest.MarkDecorator:
    chosen = [each for each in CORPUS if each.outcome is outcome and each.decider in deciders]
    return pytest.mark.parametrize("entry", chosen, ids=lambda entry: repr(entry.name)[:80])


async def test_every_kind_of_entry_has_a_test() -> None:
    kinds = {(each.outcome, each.decider) for each in CORPUS}
    assert kinds == {
        (Outcome.REJECTED, Decider.HEAD),
        (Outcome.REJECTED, Decider.ADMISSION),
        (Outcome.REJECTED, Decider.BODY),
        (Outcome.ONE_REQUEST, Decider.ADMISSION),
    }


@entries(Outcome.REJECTED, Decider.HEAD, Decider.ADMISSION)
async def test_rejected_requests_do_not_reach_the_upstream(site: Site, entry: Entry) -> None:
    connection = await site.check_other_client()
    requests, connections = len(site.upstream.requests), len(site.upstream.connections)
    response, data = await site.send(entry.data)
    assert 400 <= response.status < 600
    assert data.count(b"HTTP/1.1 ") == 1
    assert len(response.body) == int(response.values("content-length")[0])
    assert (len(site.upstream.requests), len(site.upstream.connections)) == (requests, connections)
    # Half a request on a reused connection would corrupt the next one.
    assert await site.check_other_client() is connection


@entries(Outcome.REJECTED, Decider.BODY)
async def test_a_request_with_a_rejected_body_stays_incomplete(site: Site, entry: Entry) -> None:
    await site.check_other_client()
    before = len(site.upstream.requests)
    response, data = await site.send(entry.data)
    assert 400 <= response.status < 600
    assert response.values("connection") == ["close"]
    assert data.count(b"HTTP/1.1 ") == 1
    seen = site.upstream.requests[before:]
    assert len(seen) <= 1
    for request in seen:
        await until(lambda request=request: request.connection.is_closed)  # type: ignore[misc]  # a default
        assert (request.target, request.is_complete) == ("/pub", False)
    connection = await site.check_other_client()
    assert all(request.connection is not connection for request in seen)
    assert not _for_admin(site.upstream.requests[before:])


@entries(Outcome.ONE_REQUEST, Decider.ADMISSION)
async def test_accepted_requests_reach_the_upstream_as_one_request(site: Site, entry: Entry) -> None:
    await site.check_other_client()
    before = len(site.upstream.requests)
    response, data = await site.send(entry.data)
    assert response.status == 200
    assert data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 100 "))
    (request,) = site.upstream.requests[before:]
    assert (request.is_complete, request.body) == (True, entry.content)
    assert request.target == "/pub" or request.target.startswith(("/pub/", "/pub?"))
    assert request.target == (entry.target or request.target)
    assert json.loads(response.body) == {"target": request.target, "body": entry.content.decode()}
    assert len(request.values("host")) == 1
    assert len(request.values("content-length") + request.values("transfer-encoding")) <= 1
    await site.check_other_client()
    assert len(site.upstream.requests) == before + 2


async def test_a_pipelined_request_is_admitted_like_any_other(site: Site) -> None:
    # Bytes after a request are the next one, which is admitted by itself.
    await site.check_other_client()
    before = len(site.upstream.requests)
    client = await site.harness.connect()
    for target in (b"/pub", b"/admin", b"/admin/x", b"/pub/last"):
        client.send(b"GET %b HTTP/1.1\r\nHost: gateway\r\n\r\n" % target)
    await client.wait_for(b"/pub/last")
    statuses = [each.status for each in parse_responses(client.received, *["GET"] * 4)]
    assert statuses == [200, 401, 401, 200]
    assert [each.target for each in site.upstream.requests[before:]] == ["/pub", "/pub/last"]
    with suppress(OSError):
        client.transport.abort()


def _for_admin(requests: list[ReceivedRequest]) -> list[str]:
    return [each.target for each in requests if "admin" in each.target]
