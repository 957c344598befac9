from collections.abc import AsyncIterator, Callable

import pytest
from harness import (
    RecordingUpstream,
)
from harness.pool import ControlledDials, PoolHarness


@pytest.fixture
async def dials(upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch) -> ControlledDials:
    return ControlledDials(monkeypatch, upstream.path)


@pytest.fixture
async def make_pool(upstream: RecordingUpstream) -> AsyncIterator[Callable[[int], PoolHarness]]:
    pools: list[PoolHarness] = []

    def make_pool(connections: int) -> PoolHarness:
        pools.append(PoolHarness(upstream.url, connections))
        return pools[-1]

    yield make_pool
    for it in pools:
        it.pool.close()
        await it.wait_empty()
