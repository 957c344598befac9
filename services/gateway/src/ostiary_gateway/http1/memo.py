"""A bounded cache of what was parsed."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: What is kept of lines that come again: how many, and bytes of each.
MAX_ENTRIES = 4096
MAX_CACHED_BYTES = 256


class BoundedCache(dict[K, V]):
    """What was worked out about keys that come again and again. What a key means depends on nothing else."""

    def __init__(self, work_out: Callable[[K], V], is_kept: Callable[[K, V], bool] = lambda _key, _value: True) -> None:
        """Work out with `work_out`, and keep what `is_kept` allows."""
        super().__init__()
        self._work_out = work_out
        self._is_kept = is_kept

    def __missing__(self, key: K) -> V:
        """Work a value out. Raises what that raises."""
        value = self._work_out(key)
        if self._is_kept(key, value):
            if len(self) >= MAX_ENTRIES:
                # Cheaper than to know which come again: those come again.
                self.clear()
            self[key] = value
        return value
