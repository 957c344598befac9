"""How many requests somebody may send: token buckets, in the memory of one process."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from ostiary_gateway.routes_file import RateLimit

#: Buckets of one limit. The one that was used least recently goes first: it is the fullest, as a rule.
MAX_BUCKETS = 100_000


class RateLimiter:
    """One limit, with a bucket for each of those it is about."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets."""
        self._size = float(limit.requests)
        self._per_second = limit.requests / limit.seconds
        self._clock = clock
        #: What was left in a bucket, and when that was.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Take one request out of a bucket; return 0, or after how many whole seconds there is one again."""
        now = self._clock()
        left, at = self._buckets.get(key, (self._size, now))
        left = min(self._size, left + (now - at) * self._per_second)
        taken = left >= 1
        self._buckets[key] = (left - 1 if taken else left, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0 if taken else math.ceil((1 - left) / self._per_second)
