"""Time in tests: a clock that is set by hand, and waiting for what tasks and timers do."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds after which what has not happened will not.
PATIENCE = 60.0


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], bool]) -> None:
    """Return when a task or a timer has done its part. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
