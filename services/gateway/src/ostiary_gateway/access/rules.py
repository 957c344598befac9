"""A route's limits, timeouts, CORS rules and header filter, prepared for the request path.

They are looked up once per request: reading the attributes of the validated models each time takes longer.
"""

from collections.abc import Mapping

from ostiary_gateway.access.cors import CorsRules
from ostiary_gateway.http1.headers import RequestFilter
from ostiary_gateway.ratelimit.route_limits import RouteLimits
from ostiary_gateway.ratelimit.token_bucket import RateLimiter
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.policies import RateLimit


class RouteRules:
    """A route's limits, timeouts in seconds, CORS rules, and which fields its upstream gets."""

    # No dataclass: generated methods are not compiled.
    def __init__(
        self, route: Route, limiters: Mapping[tuple[str, RateLimit], RateLimiter], sent: RequestFilter
    ) -> None:
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
