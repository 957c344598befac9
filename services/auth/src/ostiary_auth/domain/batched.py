"""Work that is done for many callers at once."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Batched(Generic[Key, Value]):
    """Calls `work` for the keys of many callers at once, and gives each caller its value.

    A key is passed on at once while fewer than `lanes` calls are running. Otherwise it waits for the next call,
    together with all keys that arrive meanwhile.
    """

    def __init__(
        self, work: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Value]]], *, lanes: int, most: int
    ) -> None:
        """`most` is the number of keys in one call."""
        self._work = work
        self._lanes = lanes
        self._most = most
        self._waiting: dict[Key, asyncio.Future[Value | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, key: Key) -> Value | None:
        """Return the value of a key, None if it has none. Raises what `work` raises."""
        result = self._waiting.get(key)
        if result is None:
            result = self._waiting[key] = asyncio.get_running_loop().create_future()
            # One that has ended takes no more keys, though its callback, which is called later, has not removed it yet.
            if sum(not lane.done() for lane in self._running) < self._lanes:
                # In a context of its own: what it logs is about many requests, and not about the one that began it.
                lane = asyncio.create_task(self._run(), context=contextvars.Context())
                self._running.add(lane)
                lane.add_done_callback(self._running.discard)
        # A caller that is cancelled does not take the result from the others.
        return await asyncio.shield(result)

    async def _run(self) -> None:
        while batch := {key: self._waiting.pop(key) for key in list(islice(self._waiting, self._most))}:
            try:
                values = await self._work(list(batch))
            except Exception as error:  # noqa: BLE001 - the callers' affair
                for result in batch.values():
                    result.set_exception(error)
                    # It may be that nobody waits any longer.
                    result.exception()
            else:
                for key, result in batch.items():
                    result.set_result(values.get(key))
                    # One after the other: whoever else waits for the event loop has not to wait for all of them.
                    await asyncio.sleep(0)
