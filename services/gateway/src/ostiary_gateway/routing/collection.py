"""Garbage collection while routes are loaded.

Ten thousand routes are half a million objects that stay. The collector would look at all of them again and again while
their number grows, for most of the time that loading takes; and in a gateway that serves, nothing else runs meanwhile,
for half a second each time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
