"""Token buckets in the memory of one process."""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

from ostiary_gateway.routing.policies import RateLimit

#: Buckets of one limit. The least recently used one is evicted first: it is most likely to be full.
MAX_BUCKETS = 100_000


class Quota:
    """What a bucket has after a request."""

    __slots__ = ("remaining", "seconds", "wait")

    def __init__(self, left: float, per_second: float, *, is_taken: bool) -> None:
        #: Whole tokens, and the seconds until there is one more.
        self.remaining = max(0, math.floor(left))
        self.seconds = math.ceil((self.remaining + 1 - left) / per_second)
        #: 0 if the request got a token, or else the seconds until there is one.
        self.wait = 0 if is_taken else self.seconds


class RateLimiter:
    """A rate limit, with a token bucket for each key."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = float(limit.requests)
        self._per_second = limit.requests / limit.seconds
        self._clock = clock
        #: Tokens left in each bucket, and at what time.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        #: Tokens taken since the last `drain`; None as long as nothing drains it.
        self._taken: Counter[str] | None = None

    def take(self, key: str) -> Quota:
        """Take a token, if the bucket has one."""
        now = self._clock()
        left, at = self._buckets.get(key, (self._size, now))
        left = min(self._size, left + (now - at) * self._per_second)
        is_taken = left >= 1
        if is_taken:
            left -= 1
        self._put(key, left, now)
        if is_taken and self._taken is not None:
            self._taken[key] += 1
        return Quota(left, self._per_second, is_taken=is_taken)

    def drain(self) -> Mapping[str, int]:
        """Return the tokens taken from each bucket since the previous call."""
        taken, self._taken = self._taken, Counter()
        return taken or {}

    def correct(self, key: str, left: float) -> None:
        """Set what is left in a bucket, as the store had it at the last `drain`."""
        since = self._taken[key] if self._taken is not None else 0
        self._put(key, left - since, self._clock())

    def _put(self, key: str, left: float, now: float) -> None:
        self._buckets[key] = (left, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
