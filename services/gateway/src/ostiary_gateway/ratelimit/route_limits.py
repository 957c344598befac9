"""The rate limits of a route, and what responses tell about them.

draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy` names the limits of the route, and `RateLimit` says what is
left of those that the request was counted by, as the decision about it found out.
"""

from collections import Counter
from collections.abc import Mapping

from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.policies import RateLimit


class RouteLimits:
    """The rate limits of a route, in the order of the file."""

    def __init__(self, limiters: Mapping[RateLimit, RateLimiter]) -> None:
        names = _names(limiters)
        #: The value of `RateLimit-Policy`.
        self.policy = ", ".join(_policy(name, limit) for limit, name in names.items()).encode()
        self._by: dict[str, list[tuple[bytes, RateLimiter]]] = {}
        for limit, limiter in limiters.items():
            self._by.setdefault(limit.by, []).append((names[limit].encode(), limiter))

    def take(self, by: str, key: str, told: list[bytes]) -> int:
        """Count a request by a key; return 0, or the seconds to wait if it is over a limit.

        Appends what is left to `told`, as members of `RateLimit`.
        """
        for name, limiter in self._by.get(by, ()):
            quota = limiter.take(key)
            told.append(b'"%b";r=%d;t=%d' % (name, quota.remaining, quota.seconds))
            if quota.wait:
                return quota.wait
        return 0


def _names(limits: Mapping[RateLimit, object]) -> dict[RateLimit, str]:
    """Name limits by what they count by, and number those that count by the same."""
    total, seen = Counter(limit.by for limit in limits), Counter[str]()
    names = {}
    for limit in limits:
        seen[limit.by] += 1
        names[limit] = limit.by if total[limit.by] == 1 else f"{limit.by}-{seen[limit.by]}"
    return names


def _policy(name: str, limit: RateLimit) -> str:
    # A window is a whole number of seconds (section 3.1.3).
    window = f";w={limit.seconds:.0f}" if limit.seconds == int(limit.seconds) else ""
    return f'"{name}";q={limit.requests}{window}'
