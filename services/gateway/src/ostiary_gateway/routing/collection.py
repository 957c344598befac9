"""Garbage collection while routes are loaded, and after that.

Ten thousand routes are half a million objects that stay. The collector would look at all of them again and again while
their number grows, for most of the time that loading takes; and in a gateway that serves, nothing else runs meanwhile,
for half a second each time. Nor does it while all objects of replaced routes are freed at once.
"""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds from the end of what has been replaced until its parts are freed; it ends within microseconds.
_FREE_AFTER_SECONDS = 0.1


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage meanwhile; in the end, count all that is there as old, which is looked at seldom."""
    gc.disable()
    try:
        yield
    finally:
        # This moves all objects to where the collector never looks, and from there to the oldest generation.
        gc.freeze()
        gc.unfreeze()
        gc.enable()


def free_in_pieces(owner: object, parts: list[object]) -> None:
    """Soon after `owner` has been freed, free its parts one by one in a thread, in this order."""
    weakref.finalize(owner, _free, parts).atexit = False


def _free(parts: list[object]) -> None:
    parts.reverse()
    # Not at once: now the owner still has its parts, and would free them itself.
    timer = threading.Timer(_FREE_AFTER_SECONDS, _pop_all, [parts])
    timer.daemon = True
    timer.start()


def _pop_all(parts: list[object]) -> None:
    while parts:
        parts.pop()
