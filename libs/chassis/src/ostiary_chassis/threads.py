"""Work that would block the event loop, in a thread of its own.

Unlike a thread of the loop's executor, it waits for no other work (a name server or a disk may take its time), and as
a daemon it cannot delay the end of the process.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
    """Call `work` in a new thread, whether or not anybody awaits the result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(future.set_result, work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - for whoever awaits the result
            settle = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if future.cancelled() else settle())

    threading.Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return future
