"""A route's limits, timeouts, CORS rules and header filter, prepared for the request path.

They are looked up once per request: reading the attributes of the validated models each time takes longer.
"""

from collections.abc import Mapping
from typing import Final

from ostiary_gateway.access.cors import CorsRules
from ostiary_gateway.http1.headers import RequestFilter
from ostiary_gateway.ratelimit.route_limits import RouteLimits
from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.policies import RateLimit

#: What responses say about cookies, as bits: there are browser sessions; the response is the auth service's, which may
#: set their cookies; a cookie may count on the route; a cookie has counted; none could, by whose page sent the request.
SESSIONS: Final = 1
FROM_ISSUER: Final = 2
VARIES: Final = 4
COUNTED: Final = 8
UNCOUNTED: Final = 16


class RouteRules:
    """A route's limits, timeouts in seconds, CORS rules, credentials, and which fields its upstream gets."""

    # No dataclass: generated methods are not compiled.
    def __init__(
        self,
        route: Route,
        limiters: Mapping[tuple[str, RateLimit], RateLimiter],
        sent: RequestFilter,
        max_staleness: float | None,
        issuer: str | None = None,
    ) -> None:
        """`issuer` is the upstream that is the auth service of browser sessions, None without those."""
        #: The age in seconds that revocations may have; None for any.
        self.max_staleness = max_staleness
        self.header_bytes = route.limits.header_bytes
        self.body_bytes = route.limits.body_bytes
        self.connect = route.timeouts.connect
        self.first_byte = route.timeouts.first_byte
        self.idle = route.timeouts.idle
        self.stream_idle = route.timeouts.stream_idle
        self.total = route.timeouts.total
        self.filter = sent
        self.cors = CorsRules(route.cors) if route.cors is not None else None
        own = {limit: limiters[route.name, limit] for limit in route.rate_limits}
        self.rate_limits = RouteLimits(own) if own else None
        self.is_optional = route.is_optional
        self.takes_bearers = route.takes_bearers
        self.takes_cookies = route.takes_cookies and issuer is not None
        self.embeds_same_site = route.embed == "same-site"
        #: Whether all requests go to the auth service.
        self.is_to_issuer = issuer is not None and set(route.upstreams) == {issuer}
        self.cookie_rules = 0
        if issuer is not None:
            self.cookie_rules = (
                SESSIONS | (FROM_ISSUER if self.is_to_issuer else 0) | (VARIES if self.takes_cookies else 0)
            )
