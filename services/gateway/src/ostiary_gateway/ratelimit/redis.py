"""Rate limits that several gateways, or workers of one, have together: a store that they tell what they let through.

No request waits for it. Each process decides by its own buckets; ten times a second it tells the store what it has
taken out of them, and hears what is left. So for a tenth of a second, one process does not know of the others; and
without the store, each limits alone.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.config import RateLimit

_log = structlog.stdlib.get_logger("limits")

#: Seconds for the store to answer, and for which it is left alone when it has not.
STORE_SECONDS = 1.0
PAUSE_SECONDS = 2.0

#: Buckets that are asked about at once.
BATCH = 500

# Takes out what was taken elsewhere already, so that a bucket may be in debt, up to its size.
_TAKE = """
local size, per_second, taken = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'left', 'at')
local left = (tonumber(bucket[1]) or size) + (now - (tonumber(bucket[2]) or now)) * per_second
left = math.max(math.min(left, size) - taken, -size)
redis.call('HSET', KEYS[1], 'left', string.format('%.6f', left), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(2000 * size / per_second))
return string.format('%.6f', left)
"""

Limiters = Mapping[tuple[str, RateLimit], RateLimiter]


class SharedLimits:
    """Keeps the buckets of a process in step with the store."""

    def __init__(self, url: str, password: str | None, limiters: Callable[[], Limiters]) -> None:
        """Nothing is connected yet; `limiters` are those of the routes that count."""
        self._store = Redis.from_url(
            url, password=password, socket_timeout=STORE_SECONDS, socket_connect_timeout=STORE_SECONDS
        )
        self._take = self._store.register_script(_TAKE)
        self._limiters = limiters
        self._settling: asyncio.Task[None] | None = None
        self._next = 0.0
        self._is_lost = False

    def on_tick(self, now: float) -> None:
        """Settle with the store, if that is not going on."""
        if now >= self._next and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._settle(now))

    async def close(self) -> None:
        """Close the connections."""
        if self._settling is not None:
            self._settling.cancel()
        await self._store.aclose()

    async def _settle(self, now: float) -> None:
        try:
            for (route, limit), limiter in self._limiters().items():
                await self._settle_one(route, limit, limiter)
        except (RedisError, OSError) as error:
            self._next = now + PAUSE_SECONDS
            if not self._is_lost:
                _log.warning("rate limits are not shared: the store does not answer", error=type(error).__name__)
            self._is_lost = True
            return
        if self._is_lost:
            _log.info("rate limits are shared again")
        self._is_lost = False

    async def _settle_one(self, route: str, limit: RateLimit, limiter: RateLimiter) -> None:
        taken = list(limiter.hand_over().items())
        for start in range(0, len(taken), BATCH):
            batch = taken[start : start + BATCH]
            pipeline = self._store.pipeline(transaction=False)
            for key, count in batch:
                arguments = [limit.requests, limit.requests / limit.seconds, count]
                await self._take(keys=[_name(route, limit, key)], args=arguments, client=pipeline)
            for (key, _), left in zip(batch, await pipeline.execute(), strict=True):
                limiter.settle(key, float(left))


def _name(route: str, limit: RateLimit, key: str) -> str:
    """Return the name of a bucket in the store; whose it is cannot be read off it."""
    what = f"{route}\n{limit.by}\n{limit.requests}\n{limit.seconds}\n{key}"
    return f"ostiary:limit:{hashlib.sha256(what.encode()).hexdigest()[:40]}"
