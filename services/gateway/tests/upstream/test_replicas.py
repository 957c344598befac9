"""Names with several addresses: each is an endpoint, joins when it takes connections, and leaves with the name."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Clock, GatewayHarness, PausedResponse, RecordingUpstream, eventually, never, parse_responses
from structlog.testing import capture_logs

from ostiary.testing import Issuer
from ostiary_gateway.routing.config import Upstream
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.endpoint import FAILURES_IN_A_ROW
from ostiary_gateway.upstream.name import Name
from ostiary_gateway.upstream.replicas import LOOK_UP_SECONDS

ROUTES = """\
upstreams:
  up: {url: "http://service.test:8000", host: upstream}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public}
"""

V6, V4, OTHER = "2001:db8::1", "192.0.2.1", "192.0.2.2"


class Network:
    """A name whose addresses the test sets, and what listens at each."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.addresses: list[str] = []
        self.look_ups = 0
        self.dialed: list[str] = []
        #: Addresses at which connections wait until the event is set.
        self.slow: dict[str, asyncio.Event] = {}
        self._directory = directory
        self._stack = stack

    async def listen(self, address: str) -> RecordingUpstream:
        return await self._stack.enter_async_context(RecordingUpstream(self._directory / address.replace(":", "-")))

    def look_up(self, host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("service.test", 8000)
        self.look_ups += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")
        return [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

    async def connect(self, protocol: Callable[[], asyncio.BaseProtocol], address: str, _port: int) -> object:
        self.dialed.append(address)
        if address in self.slow:
            await self.slow[address].wait()
        path = self._directory / address.replace(":", "-")
        return await asyncio.get_running_loop().create_unix_connection(protocol, str(path))


@pytest.fixture
async def network(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        network = Network(tmp_path_factory.mktemp("net"), stack)
        monkeypatch.setattr(socket, "getaddrinfo", network.look_up)
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", network.connect)
        yield network


Open = Callable[..., Awaitable[GatewayHarness]]


@pytest.fixture
async def open_gateway(network: Network, issuer: Issuer) -> AsyncIterator[Open]:
    """Start the gateway once the test has set the addresses."""
    async with AsyncExitStack() as stack:

        async def open_gateway(*found: str) -> GatewayHarness:
            network.addresses = list(found)
            return await stack.enter_async_context(GatewayHarness.open(ROUTES, "", issuer.verifier()))

        yield open_gateway


async def with_two_addresses(network: Network, open_gateway: Open) -> GatewayHarness:
    """Open a gateway that sends requests to two replicas behind its name."""
    for address in (V4, OTHER):
        await network.listen(address)
    harness = await open_gateway(V4, OTHER)
    await eventually(lambda: addresses(harness) == {V4, OTHER})
    return harness


def addresses(harness: GatewayHarness) -> set[str]:
    """The addresses that get requests."""
    return {each.address.partition(" (")[2].rstrip(")") for each in harness.upstream()._endpoints}


async def requests(harness: GatewayHarness, count: int = 30, method: str = "GET") -> list[int]:
    return [(await harness.request("/any/x", method=method)).status for _ in range(count)]


async def test_all_addresses_of_a_name_share_the_requests(network: Network, open_gateway: Open) -> None:
    servers = [await network.listen(each) for each in (V6, V4, OTHER)]
    harness = await open_gateway(V6, V4, OTHER)
    # At once, before it is known how many there are.
    assert await requests(harness, 1) == [200]
    await eventually(lambda: addresses(harness) == {V6, V4, OTHER})
    assert set(await requests(harness)) == {200}
    assert all(len(each.requests) > 1 for each in servers)
    assert {value for each in servers for value in each.last.values("host")} == {"service.test:8000"}
    # No connection has to wait for a name server.
    look_ups = network.look_ups
    await requests(harness, 5)
    assert network.look_ups == look_ups


async def test_an_address_that_nothing_listens_on_gets_no_requests_until_it_takes_connections(
    network: Network, open_gateway: Open, clock: Clock
) -> None:
    await network.listen(V4)
    harness = await open_gateway(V6, V4)
    await eventually(lambda: addresses(harness) == {V4})
    network.dialed.clear()
    assert set(await requests(harness, 10)) == {200}
    assert set(network.dialed) == {V4}
    assert (harness.upstream().ejected_endpoints, dict(harness.upstream().failures)) == (0, {})
    await network.listen(V6)
    clock.skip(LOOK_UP_SECONDS)
    await eventually(lambda: addresses(harness) == {V6, V4})


async def test_once_one_address_takes_connections_the_others_get_no_more_requests(
    network: Network, open_gateway: Open
) -> None:
    harness = await open_gateway(V6, V4)
    await eventually(lambda: addresses(harness) == {V6, V4})
    assert set(await requests(harness, FAILURES_IN_A_ROW)) == {503}
    await network.listen(V4)
    await eventually(lambda: addresses(harness) == {V4})
    await eventually(lambda: harness.upstream().is_circuit_closed)
    failed = sum(harness.upstream().failures.values())
    assert set(await requests(harness, 10)) == {200}
    assert sum(harness.upstream().failures.values()) == failed


async def test_an_address_that_takes_connections_late_is_used_as_the_others_are(
    network: Network, open_gateway: Open, clock: Clock
) -> None:
    harness = await open_gateway(V6, V4)
    await eventually(lambda: addresses(harness) == {V6, V4})
    network.slow[V6] = asyncio.Event()
    for address in (V6, V4):
        await network.listen(address)
    clock.skip(LOOK_UP_SECONDS)
    await eventually(lambda: addresses(harness) == {V4})
    network.slow.pop(V6).set()
    # It may be too late for the attempt under way.
    clock.skip(LOOK_UP_SECONDS)
    await eventually(lambda: addresses(harness) == {V6, V4})
    assert set(await requests(harness)) == {200}
    # Connections to both are kept for further requests.
    await eventually(lambda: all(pool.idle for pool in harness.upstream().pools))


async def test_nothing_changes_when_addresses_come_in_another_order(
    network: Network, open_gateway: Open, clock: Clock
) -> None:
    await with_two_addresses(network, open_gateway)
    network.addresses = [OTHER, V4]
    look_ups = network.look_ups
    with capture_logs() as logs:
        clock.skip(LOOK_UP_SECONDS)
        await eventually(lambda: network.look_ups > look_ups)
        clock.skip(LOOK_UP_SECONDS)
        await eventually(lambda: network.look_ups > look_ups + 1)
    assert [each["event"] for each in logs if each["event"] == "addresses changed"] == []


async def test_addresses_that_appear_get_requests_and_those_that_vanish_finish_theirs(
    network: Network, open_gateway: Open, clock: Clock
) -> None:
    old = await network.listen(V4)
    harness = await open_gateway(V4)
    await eventually(lambda: addresses(harness) == {V4})
    old.response = held = PausedResponse(then=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
    client = await harness.connect()
    client.send(b"GET /any/x HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    await eventually(lambda: old.requests)
    new = await network.listen(OTHER)
    network.addresses = [OTHER]
    clock.skip(LOOK_UP_SECONDS)
    await eventually(lambda: addresses(harness) == {OTHER})
    assert set(await requests(harness, 10)) == {200}
    assert (len(old.requests), len(new.requests)) == (1, 10)
    assert len(harness.upstream().pools) == 2
    held.resume()
    (response,) = parse_responses(await client.wait_closed())
    assert (response.status, response.body) == (200, b"late")
    await eventually(lambda: len(harness.upstream().pools) == 1)


async def test_the_last_known_addresses_stay_while_the_name_is_not_resolved(
    network: Network, open_gateway: Open, clock: Clock
) -> None:
    harness = await with_two_addresses(network, open_gateway)
    network.addresses = []
    look_ups = network.look_ups
    clock.skip(LOOK_UP_SECONDS)
    await eventually(lambda: network.look_ups > look_ups)
    await never(lambda: addresses(harness) != {V4, OTHER})
    assert set(await requests(harness, 10)) == {200}


async def test_no_request_fails_when_a_service_comes_back_at_another_address(
    network: Network, open_gateway: Open
) -> None:
    old = await network.listen(V4)
    harness = await open_gateway(V4)
    await eventually(lambda: addresses(harness) == {V4})
    old.stop_listening()
    network.addresses = [OTHER]
    await network.listen(OTHER)
    assert set(await requests(harness, 5, "POST")) == {200}
    # A failed connection is reason enough to look the name up, whatever the clock says.
    await eventually(lambda: addresses(harness) == {OTHER})


async def test_a_name_that_has_no_address_yet_is_a_503(network: Network, open_gateway: Open) -> None:
    harness = await open_gateway()
    response = await harness.request("/any/x")
    assert (response.status, response.code) == (503, "upstream_unavailable")
    network.addresses = [V4]
    await network.listen(V4)
    assert await requests(harness, 1) == [200]


async def test_many_names_are_not_looked_up_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[float] = []
    now = 0.0

    async def look_up(_: Name) -> list[str]:
        looked_up.append(now)
        return [V4]

    monkeypatch.setattr(Name, "look_up", look_up)
    config = Upstream(url="http://service.test:8000")
    clusters = [Cluster(f"up{number}", config, None, b"gw") for number in range(100)]
    for now in range(int(2 * LOOK_UP_SECONDS)):
        for cluster in clusters:
            cluster.on_tick(now)
        await asyncio.sleep(0)
    counts = Counter(looked_up)
    assert counts.pop(0) == len(clusters)
    assert max(counts.values()) < len(clusters)
