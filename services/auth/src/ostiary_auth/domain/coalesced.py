"""Coalescing of concurrent calls."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Coalesced:
    """Runs `work` for all callers that wait, one run at a time.

    A result counts only for calls made before the run began: calls during a run share the next one. A run that takes
    longer than `patience` seconds holds up no other: the next one begins beside it.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], *, patience: float | None = None) -> None:
        self._work = work
        self._patience = patience
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._runs: set[asyncio.Task[None]] = set()

    async def __call__(self) -> None:
        """Return after a complete run. Raises what `work` raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._current))
            self._next.add_done_callback(retrieve_error)
            self._runs.add(self._next)
            self._next.add_done_callback(self._runs.discard)
        # A caller that is cancelled does not cancel the run for the others.
        await asyncio.shield(self._next)

    async def close(self) -> None:
        """Cancel all runs."""
        tasks = set(self._runs)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._current = self._next = None

    async def _run(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait({before}, timeout=self._patience)
        self._current, self._next = self._next, None
        await self._work()


def retrieve_error(task: "asyncio.Task[Any]") -> None:
    """Retrieve an error that no caller waits for any longer."""
    if not task.cancelled():
        task.exception()
