"""A cache for pure functions of lines that repeat from message to message."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_ENTRIES = 4096

#: Bytes of a key. What clients repeat is short, and 4096 entries of 32 KiB would take 128 MiB.
MAX_CACHED_BYTES = 256


def is_short(key: bytes, _value: object = None) -> bool:
    """Return whether a line is short enough to be kept."""
    return len(key) <= MAX_CACHED_BYTES


class BoundedCache(dict[K, V]):
    """A dictionary that computes missing values. A value must depend on its key alone."""

    def __init__(
        self, compute: Callable[[K], V], is_cacheable: Callable[[K, V], bool] = lambda _key, _value: True
    ) -> None:
        super().__init__()
        self._compute = compute
        self._is_cacheable = is_cacheable

    def __missing__(self, key: K) -> V:
        value = self._compute(key)
        if self._is_cacheable(key, value):
            if len(self) >= MAX_ENTRIES:
                # Cheaper than tracking use: keys that repeat are back soon.
                self.clear()
            self[key] = value
        return value
