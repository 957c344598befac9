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

_create_tls_context = cache(ssl.create_default_context)

#: Test modules that also run on uvloop, which serves in production. The others run on asyncio's event loop only, whose
#: time the tests can put forward.
ON_BOTH_LOOPS = frozenset(
    {"test_fairness", "test_connection", "test_stale_connection", "test_tunnel", "test_tunnel_end"}
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on asyncio's event loop, or on both."""
    if item.path.stem in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="module", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Share one TLS context among all gateways: loading the system's certificates takes 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", _create_tls_context)
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
    """An upstream. All have the same address, so that the routes file is loaded once."""
    async with RecordingUpstream(socket_directory / "up") as upstream:
        yield upstream


@pytest.fixture
async def harness(
    request: pytest.FixtureRequest, issuer: Issuer, upstream: RecordingUpstream
) -> AsyncIterator[GatewayHarness]:
    """A gateway with the routes in the test module's `ROUTES`."""
    async with GatewayHarness.open(request.module.ROUTES, upstream.url, issuer.verifier()) as harness:
        yield harness
