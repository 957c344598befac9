"""Raw requests that servers in a row read in different ways, sent through a gateway with an upstream behind it."""

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
class Street:
    """A gateway, what is behind it, and a neighbour who uses it too."""

    harness: GatewayHarness
    upstream: RecordingUpstream

    async def neighbour_asks(self) -> UpstreamSocket:
        """See that somebody else's request gets its own answer; return the upstream's connection that it took."""
        target = f"/pub/neighbour-{next(_numbers)}"
        before = len(self.upstream.requests)
        line = await self.harness.connect()
        line.send(f"GET {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
        (answer,) = parse_responses(await line.wait_closed())
        assert (answer.status, answer.is_complete) == (200, True)
        assert json.loads(answer.body) == {"target": target, "body": ""}
        assert [each.target for each in self.upstream.requests[before:]] == [target]
        # It is at hand for whoever comes next.
        (pool,) = self.harness.gateway.runtime.current.upstreams["up"].pools
        await until(lambda: pool._idle)
        return self.upstream.last.connection

    async def send(self, data: bytes) -> tuple[ReceivedResponse, bytes]:
        """Send bytes; return the answer, and what came until it was all there."""
        line = await self.harness.connect()
        line.send(data)
        await until(lambda: line.is_closed or _is_whole(line.received))
        answer = _first(line.received)
        if answer.values("connection") == ["close"]:
            await line.wait_closed()
        line.transport.abort()
        return answer, line.received


def _first(data: bytes) -> ReceivedResponse:
    """Read the one response there is, without what may be unusual in it."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in lines)]
    return ReceivedResponse(int(line.split(" ")[1]), fields, body)


def _is_whole(data: bytes) -> bool:
    if b"\r\n\r\n" not in data:
        return False
    answer = _first(data)
    return answer.status >= 200 and len(answer.body) >= int(answer.values("content-length")[0])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street(issuer: Issuer) -> AsyncIterator[Street]:
    with short_directory() as directory:
        async with (
            RecordingUpstream(directory / "up") as upstream,
            GatewayHarness.open(ROUTES, upstream.url, issuer.verifier()) as harness,
        ):
            yield Street(harness, upstream)


def entries(outcome: Outcome, *deciders: Decider) -> pytest.MarkDecorator:
    chosen = [each for each in CORPUS if each.outcome is outcome and each.decider in deciders]
    return pytest.mark.parametrize("entry", chosen, ids=lambda entry: repr(entry.name)[:80])


async def test_every_entry_is_in_one_of_the_tests_below() -> None:
    kinds = {(each.outcome, each.decider) for each in CORPUS}
    assert kinds == {
        (Outcome.REFUSED, Decider.HEAD),
        (Outcome.REFUSED, Decider.GATE),
        (Outcome.REFUSED, Decider.BODY),
        (Outcome.ONE_REQUEST, Decider.GATE),
    }


@entries(Outcome.REFUSED, Decider.HEAD, Decider.GATE)
async def test_no_byte_of_a_refused_request_goes_on(street: Street, entry: Entry) -> None:
    connection = await street.neighbour_asks()
    requests, connections = len(street.upstream.requests), len(street.upstream.connections)
    answer, data = await street.send(entry.data)
    assert 400 <= answer.status < 600
    assert data.count(b"HTTP/1.1 ") == 1
    assert len(answer.body) == int(answer.values("content-length")[0])
    assert (len(street.upstream.requests), len(street.upstream.connections)) == (requests, connections)
    # Half a request on the connection at hand would spoil the next one.
    assert await street.neighbour_asks() is connection


@entries(Outcome.REFUSED, Decider.BODY)
async def test_a_request_whose_body_is_refused_never_becomes_whole(street: Street, entry: Entry) -> None:
    await street.neighbour_asks()
    before = len(street.upstream.requests)
    answer, data = await street.send(entry.data)
    assert 400 <= answer.status < 600
    assert answer.values("connection") == ["close"]
    assert data.count(b"HTTP/1.1 ") == 1
    seen = street.upstream.requests[before:]
    assert len(seen) <= 1
    for request in seen:
        await until(lambda request=request: request.connection.is_closed)  # type: ignore[misc]  # a default
        assert (request.target, request.is_complete) == ("/pub", False)
    connection = await street.neighbour_asks()
    assert all(request.connection is not connection for request in seen)
    assert not _for_admin(street.upstream.requests[before:])


@entries(Outcome.ONE_REQUEST, Decider.GATE)
async def test_what_passes_is_one_request(street: Street, entry: Entry) -> None:
    await street.neighbour_asks()
    before = len(street.upstream.requests)
    answer, data = await street.send(entry.data)
    assert answer.status == 200
    assert data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 100 "))
    (request,) = street.upstream.requests[before:]
    assert (request.is_complete, request.body) == (True, entry.content)
    assert request.target == "/pub" or request.target.startswith(("/pub/", "/pub?"))
    assert json.loads(answer.body) == {"target": request.target, "body": entry.content.decode()}
    assert len(request.values("host")) == 1
    assert len(request.values("content-length") + request.values("transfer-encoding")) <= 1
    await street.neighbour_asks()
    assert len(street.upstream.requests) == before + 2


async def test_a_smuggled_request_is_a_request_like_any_other(street: Street) -> None:
    # What comes after a request is the next one, with a gate of its own.
    await street.neighbour_asks()
    before = len(street.upstream.requests)
    line = await street.harness.connect()
    for target in (b"/pub", b"/admin", b"/admin/x", b"/pub/last"):
        line.send(b"GET %b HTTP/1.1\r\nHost: gateway\r\n\r\n" % target)
    await line.wait_for(b"/pub/last")
    statuses = [each.status for each in parse_responses(line.received, *["GET"] * 4)]
    assert statuses == [200, 401, 401, 200]
    assert [each.target for each in street.upstream.requests[before:]] == ["/pub", "/pub/last"]
    with suppress(OSError):
        line.transport.abort()


def _for_admin(requests: list[ReceivedRequest]) -> list[str]:
    return [each.target for each in requests if "admin" in each.target]
