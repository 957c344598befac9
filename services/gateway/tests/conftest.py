import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import uvloop
from harness import Clock, GatewayHarness, RecordingUpstream, short_directory

from ostiary.testing import Issuer

_one_tls_context = cache(ssl.create_default_context)

#: What is also tested on the event loop that serves in production, where that is there; others are on asyncio's, whose
#: time the tests can put forward.
ON_BOTH_LOOPS = frozenset(
    {"test_fairness", "test_connection", "test_stale_connection", "test_tunnel", "test_tunnel_end"}
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is asynchronous on one event loop, or on each of two."""
    if item.path.stem in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="module", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Give all gateways the same TLS context: to read the machine's certificates for each of them takes 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", _one_tls_context)
        yield


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer("http://localhost:8080")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(time.monotonic)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture(scope="session")
def socket_directory() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture
async def upstream(socket_directory: Path) -> AsyncIterator[RecordingUpstream]:
    """One upstream after the other has the same address, so that the same routes file fits them all."""
    async with RecordingUpstream(socket_directory / "up") as upstream:
        yield upstream


@pytest.fixture
async def harness(
    request: pytest.FixtureRequest, issuer: Issuer, upstream: RecordingUpstream
) -> AsyncIterator[GatewayHarness]:
    """A gateway with the routes in the test module's `ROUTES`."""
    async with GatewayHarness.open(request.module.ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness
