"""Work that many wait for and that need not be done for each of them."""

import asyncio
from collections.abc import Awaitable, Callable


class Coalesced:
    """Work whose result counts only if it began after it was asked for.

    Who asks while it is being done waits for the next time; all who do so share that one.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, one at a time."""
        self._work = work
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return when the work has been done once from beginning to end. Raises what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._current))
            self._next.add_done_callback(_look_at)
        # Who gives up waiting does not end it for the others.
        await asyncio.shield(self._next)

    async def close(self) -> None:
        """End the work, if it is being done."""
        tasks = {task for task in (self._current, self._next) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._current = self._next = None

    async def _run(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait({before})
        self._current, self._next = self._next, None
        await self._work()


def _look_at(task: "asyncio.Task[None]") -> None:
    """Take note of an error that nobody waits for any more; each who did has got it."""
    if not task.cancelled():
        task.exception()
