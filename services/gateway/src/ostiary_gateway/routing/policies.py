"""A route's limits, timeouts, retries and CORS rules, as they are in the routes file.

`defaults` has the same for all routes. What a route sets itself goes first; mappings are merged field by field.
"""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from ostiary_chassis.origins import OriginMatcher, names_somebody
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES, MAX_HEAD_BYTES
from ostiary_gateway.routing.types import CorsName, HeaderNames, Origin, Section, none_for_text

#: Bytes of a request body by default: enough for JSON, too few for a flood.
DEFAULT_BODY_BYTES = 1024 * 1024

#: Bytes that a route may allow at most: a limit of a TiB is a mistake.
MAX_BODY_BYTES = 2**40

#: Timeouts in seconds by default.
DEFAULT_CONNECT_SECONDS = 2.0
#: Longer than the auth service takes for a request that waits until a logout is in force.
DEFAULT_FIRST_BYTE_SECONDS = 45.0
DEFAULT_IDLE_SECONDS = 30.0

#: Longer than the pings and comments by which streams show that they live.
DEFAULT_STREAM_IDLE_SECONDS = 3600.0


class Limits(Section):
    """Maximum sizes of a request."""

    body_bytes: Annotated[int, Field(strict=True, ge=0, le=MAX_BODY_BYTES)] = DEFAULT_BODY_BYTES
    """Maximum size of the body in bytes; larger requests get 413."""

    header_bytes: Annotated[int, Field(strict=True, ge=256, le=MAX_HEAD_BYTES)] = DEFAULT_HEAD_BYTES
    """Maximum size of request line and header fields in bytes; larger requests get 431, or 414 for the line alone."""


class RateLimit(Section):
    """A token bucket: `requests` at once, refilled evenly over `seconds`."""

    by: Literal["address", "subject", "client"]
    """What requests are counted by: the client's address, or the access token's subject or client."""

    requests: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    """Size of the bucket."""

    seconds: Annotated[float, Field(strict=True, ge=0.1, le=86_400)]
    """Seconds in which an empty bucket is full again."""


class Timeouts(Section):
    """Timeouts of the upstream, in seconds."""

    connect: Annotated[float, Field(strict=True, ge=0.01, le=60)] = DEFAULT_CONNECT_SECONDS
    """Seconds until a connection is available."""

    first_byte: Annotated[float, Field(strict=True, ge=0.01, le=3600)] = DEFAULT_FIRST_BYTE_SECONDS
    """Seconds until the response's head has arrived."""

    idle: Annotated[float, Field(strict=True, ge=0.01, le=3600)] = DEFAULT_IDLE_SECONDS
    """Seconds between two pieces of the response."""

    stream_idle: Annotated[float, Field(strict=True, ge=0.01, le=86_400)] = DEFAULT_STREAM_IDLE_SECONDS
    """Seconds without data on a WebSocket or in a response that is a stream of events, in place of `idle`."""

    total: Annotated[float, Field(strict=True, ge=0.01, le=86_400)] | None = None
    """Seconds for the whole exchange; unlimited by default."""


class Retries(Section):
    """Retries of idempotent requests without a body (RFC 9110 section 9.2.2).

    A request is retried after a failure without a response, and after the given statuses. At most a fifth of an
    upstream's requests are retries.
    """

    attempts: Annotated[int, Field(strict=True, ge=1, le=5)]
    """Maximum number of retries of one request."""

    statuses: frozenset[Annotated[int, Field(strict=True, ge=500, le=599)]] = frozenset()
    """Statuses of responses after which the request is retried."""


class Cors(Section):
    """Which web pages of other origins may use a route (Fetch standard, section 3.2)."""

    origins: Annotated[frozenset[Origin], Field(min_length=1)] = frozenset()
    """Allowed origins, such as https://app.example.com, https://*.example.com, http://localhost:* or
    capacitor://localhost; * for all. Required unless `defaults` has them."""

    headers: frozenset[CorsName] = frozenset()
    """Request headers that pages may send, besides Authorization, Content-Type, If-Match and If-None-Match; * for
    all."""

    expose: frozenset[CorsName] = frozenset()
    """Response headers that pages may read, besides what they need to handle errors and entity tags; * for all."""

    credentials: StrictBool = False
    """Whether browsers send cookies along."""

    max_age: Annotated[int, Field(strict=True, ge=0, le=86_400)] = 600
    """Seconds for which a browser may cache a preflight response."""

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        if not self.credentials:
            return self
        for origin in sorted(self.origins):
            if not names_somebody(origin):
                raise ValueError(f"'credentials' requires a list of origins instead of '{origin}'")
        for name in ("headers", "expose"):
            if "*" in getattr(self, name):
                # With credentials, browsers take it for a header of that name.
                raise ValueError(f"'credentials' requires a list of names instead of '*' in '{name}'")
        return self

    @cached_property
    def allowed(self) -> OriginMatcher:
        """The origins whose pages may read responses, besides `*`."""
        return OriginMatcher(self.origins)

    @cached_property
    def trusted(self) -> OriginMatcher:
        """The origins whose pages are known to be somebody's."""
        return OriginMatcher([origin for origin in self.origins if names_somebody(origin)])

    def over(self, default: Self) -> Self:
        # A route that names origins of its own says all about them: they must not get credentials by a default.
        return self if "origins" in self.model_fields_set else super().over(default)


class RoutePolicies(Section):
    """What a route may leave to `defaults`."""

    rate_limits: tuple[RateLimit, ...] = ()
    """Rate limits; requests over any of them get 429."""

    retries: Annotated[
        Retries | None, BeforeValidator(none_for_text, json_schema_input_type=Retries | Literal["none"] | None)
    ] = None
    """When requests are retried; never by default. `none` in spite of `defaults`."""

    cors: Annotated[
        Cors | None, BeforeValidator(none_for_text, json_schema_input_type=Cors | Literal["none"] | None)
    ] = None
    """Which web pages of other origins may use the route; none by default. `none` in spite of `defaults`."""

    limits: Limits = Limits()
    """Maximum sizes of head and body."""

    timeouts: Timeouts = Timeouts()
    """How long the upstream may take."""

    drop_headers: frozenset[HeaderNames] = frozenset()
    """Request headers that the service does not get, such as X-Debug or X-Company-* for all that begin so."""

    pass_headers: frozenset[HeaderNames] = frozenset()
    """Request headers that clients may send though services trust them, such as X-User-Id; `drop_headers` wins."""

    @model_validator(mode="after")
    def _check_duplicates(self) -> Self:
        if len(set(self.rate_limits)) != len(self.rate_limits):
            raise ValueError("duplicate rate limit")
        return self
