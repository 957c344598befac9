"""Rate limits that gateways, and workers of one gateway, share through Redis.

No request waits for Redis. Each process decides with its own token buckets; ten times a second, it reports the tokens
that it has taken, and corrects its buckets by the result. So for a tenth of a second a process does not know of the
others' requests, and without Redis each process limits alone.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.policies import RateLimit

_log = structlog.stdlib.get_logger("limits")

#: Seconds until a command has timed out, and until the next attempt after a failure.
TIMEOUT_SECONDS = 1.0
RETRY_SECONDS = 2.0

#: Buckets that are synchronised in one round trip.
BATCH_SIZE = 500

# What other processes have taken counts as well, so a bucket may be in debt, up to its size.
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


class SharedRateLimits:
    """Synchronises a process's token buckets with Redis."""

    def __init__(self, url: str, password: str | None, limiters: Callable[[], Limiters]) -> None:
        """`limiters` returns those of the current routes. Connections are opened when they are needed."""
        self._redis = Redis.from_url(
            url, password=password, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        )
        self._take = self._redis.register_script(_TAKE)
        self._limiters = limiters
        self._task: asyncio.Task[None] | None = None
        self._next_attempt = 0.0
        self._is_available = True

    def on_tick(self, now: float) -> None:
        """Start a synchronisation unless one is running."""
        if now >= self._next_attempt and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._synchronise(now))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._redis.aclose()

    async def _synchronise(self, now: float) -> None:
        try:
            for (route, limit), limiter in self._limiters().items():
                await self._synchronise_one(route, limit, limiter)
        except (RedisError, OSError) as error:
            self._next_attempt = now + RETRY_SECONDS
            if self._is_available:
                _log.warning("rate limit store unavailable", error=type(error).__name__)
            self._is_available = False
            return
        if not self._is_available:
            _log.info("rate limit store available again")
        self._is_available = True

    async def _synchronise_one(self, route: str, limit: RateLimit, limiter: RateLimiter) -> None:
        taken = list(limiter.drain().items())
        for start in range(0, len(taken), BATCH_SIZE):
            batch = taken[start : start + BATCH_SIZE]
            pipeline = self._redis.pipeline(transaction=False)
            for key, count in batch:
                arguments = [limit.requests, limit.requests / limit.seconds, count]
                await self._take(keys=[_redis_key(route, limit, key)], args=arguments, client=pipeline)
            for (key, _), left in zip(batch, await pipeline.execute(), strict=True):
                limiter.correct(key, float(left))


def _redis_key(route: str, limit: RateLimit, key: str) -> str:
    """Hash the key, so that the store does not reveal addresses and subjects."""
    what = f"{route}\n{limit.by}\n{limit.requests}\n{limit.seconds}\n{key}"
    return f"ostiary:limit:{hashlib.sha256(what.encode()).hexdigest()[:40]}"
