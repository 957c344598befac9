"""How many requests somebody may send: token buckets, in the memory of one process."""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

from ostiary_gateway.routing.config import RateLimit

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
        #: What has been taken out and not yet handed over; None if nobody asks.
        self._taken: Counter[str] | None = None

    def take(self, key: str) -> int:
        """Take one request out of a bucket; return 0, or after how many whole seconds there is one again."""
        now = self._clock()
        left, at = self._buckets.get(key, (self._size, now))
        left = min(self._size, left + (now - at) * self._per_second)
        taken = left >= 1
        self._put(key, left - 1 if taken else left, now)
        if taken and self._taken is not None:
            self._taken[key] += 1
        return 0 if taken else math.ceil((1 - left) / self._per_second)

    def hand_over(self) -> Mapping[str, int]:
        """Return what has been taken out of buckets since this was asked before."""
        taken, self._taken = self._taken, Counter()
        return taken or {}

    def settle(self, key: str, left: float) -> None:
        """Correct a bucket: so much is left in it, all told, but for what was taken since `hand_over`."""
        since = self._taken[key] if self._taken is not None else 0
        self._put(key, left - since, self._clock())

    def _put(self, key: str, left: float, now: float) -> None:
        self._buckets[key] = (left, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
