"""Waiting for conditions, and a clock that tests put forward."""

import asyncio
from collections.abc import Callable

#: Iterations of the event loop within which all pending work is done. Unix sockets deliver at once, so what changes
#: nothing for this long waits for a timer or another thread.
ITERATIONS = 200

#: Seconds that `until` sleeps at most, and how long each time. The gateway checks deadlines every 0.1 s; the shortest
#: of its own timeouts is 1 s.
AT_ONCE = 0.5
_NAP = 0.002

#: Seconds that `eventually` waits for other threads and for timers that tests cannot put forward.
PATIENCE = 10.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true, which must be at once. Raises TimeoutError.

    It waits less than any timeout of the gateway: else a test would pass where a timeout does, late, what should happen
    at once. Naps are counted, not seconds: where the machine is busy, they take as much longer as all else.
    """
    for iteration in range(ITERATIONS + int(AT_ONCE / _NAP)):
        if condition():
            return
        await asyncio.sleep(0 if iteration < ITERATIONS else _NAP)
    raise TimeoutError("the condition did not become true at once")


async def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until the condition is true, however late. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(_NAP)


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
