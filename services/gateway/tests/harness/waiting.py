"""Waiting for conditions, and a clock that tests put forward."""

import asyncio
from collections.abc import Callable

#: Seconds after which a condition that depends on other threads or on timers counts as never true.
PATIENCE = 10.0

#: Iterations of the event loop within which all pending work is done. Unix sockets deliver at once, so what changes
#: nothing for this long waits for a timer or another thread.
ITERATIONS = 200


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until the condition is true. Raises TimeoutError."""
    iterations = 0
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0 if iterations < ITERATIONS else 0.002)
            iterations += 1


async def never(condition: Callable[[], object]) -> None:
    """Assert that the condition stays false while all pending work is done."""
    for _ in range(ITERATIONS):
        assert not condition(), "the condition became true"
        await asyncio.sleep(0)


async def settled(measure: Callable[[], int]) -> int:
    """Return the measure's value after all pending work is done."""
    value, iterations = measure(), 0
    while iterations < ITERATIONS:
        await asyncio.sleep(0)
        before, value = value, measure()
        iterations = iterations + 1 if value == before else 0
    return value


class Clock:
    """The time of this process, gateway, upstream, clients and event loop alike. Tests put it forward."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ahead = 0.0

    def __call__(self) -> float:
        return self._monotonic() + self._ahead

    def skip(self, seconds: float) -> None:
        """Put the clock forward. Timers due by then fire in the next iteration of the event loop."""
        self._ahead += seconds
