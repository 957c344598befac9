"""The sections of the routes file.

    upstreams:
      profile: {url: "${OSTIARY_PROFILE_URL:-http://127.0.0.1:8082}"}
    routes:
      - name: read-profile
        match: {path: "/profiles/{id}", methods: [GET]}
        upstream: profile
        access: {scopes: [profile:read]}

Each route sets its `access` explicitly: public, optional, authenticated, or the scopes, roles and claims that it
requires.
There is no default for it, and unknown fields are errors.
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from types import EllipsisType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag, model_validator

from ostiary_chassis.middleware import LIVENESS_PATH
from ostiary_gateway.http1.methods import IDEMPOTENT
from ostiary_gateway.http1.parser import DEFAULT_RESPONSE_HEAD_BYTES, MAX_HEAD_BYTES
from ostiary_gateway.routing.browser import BrowserSessions
from ostiary_gateway.routing.policies import RoutePolicies
from ostiary_gateway.routing.requirements import Requirements
from ostiary_gateway.routing.templates import PathTemplate, parameters, parse_template
from ostiary_gateway.routing.types import (
    CLOSED_MAPPING,
    Address,
    Addresses,
    HeaderName,
    HeaderValue,
    Host,
    Method,
    Name,
    PlainPath,
    Section,
    SentHost,
    Special,
    text_or_other,
)

#: Where the gateway serves the merged OpenAPI document, and the page that shows it.
OPENAPI_PATH, DOCS_PATH = "/openapi.json", "/docs"

_DOCS_PATHS = frozenset(
    {
        OPENAPI_PATH,
        DOCS_PATH,
        *(f"{DOCS_PATH}/{name}" for name in ("start.js", "swagger-ui-bundle.js", "swagger-ui.css")),
    }
)

#: Paths of the public port that the gateway serves itself, by default.
OWN_PATHS = _DOCS_PATHS | {LIVENESS_PATH}


def own_paths(*, has_docs: bool, operations: Collection[str]) -> frozenset[str]:
    """Return the paths that the gateway serves itself: without those of its documentation, services may have them."""
    return (OWN_PATHS if has_docs else OWN_PATHS - _DOCS_PATHS).union(operations)


#: A path template's shape, a host ("" for all), and header fields in lower case with their values.
Conditions = tuple[object, str, frozenset[tuple[str, str]]]


def _valid_template(text: str) -> str:
    parse_template(text)
    return text


class HealthCheck(Section):
    """An active health check of each address: a GET that must be answered with 2xx."""

    path: PlainPath
    """Path of the request."""

    seconds: Annotated[float, Field(strict=True, ge=0.1, le=3600)] = 5.0
    """Seconds between two checks."""

    timeout: Annotated[float, Field(strict=True, ge=0.05, le=60)] = 2.0
    """Seconds until a check without a response has failed."""


class Upstream(Section):
    """A service behind the gateway: `http://` or `https://` with host and port, or `unix:` with a socket's path."""

    url: Address | None = None
    """Address of the service; environment variables are expanded, as in ${ORDERS_URL:-http://127.0.0.1:8083}."""

    urls: Addresses | None = None
    """Addresses of several endpoints, which share the load: a list, or a text with commas, such as ${ORDERS_URLS}."""

    host: SentHost = "client"
    """Host that the service gets: the `client`'s, that of its own address (`upstream`), or this one."""

    health: HealthCheck | None = None
    """Active health check; without it, an endpoint is ejected for some time after consecutive failures."""

    connections: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 256
    """Maximum number of connections to each address, per worker; WebSockets count."""

    header_bytes: Annotated[int, Field(strict=True, ge=4096, le=MAX_HEAD_BYTES)] = DEFAULT_RESPONSE_HEAD_BYTES
    """Maximum size of a response's status line and header fields in bytes; a larger response is a 502."""

    ignores_case: StrictBool = False
    """Whether the service treats `/ADMIN` as `/admin`: access rules then apply to paths in any case."""

    openapi: StrictBool = True
    """Whether the service describes itself at `/openapi.json`; pages and files have nothing to describe."""

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        if (self.url is None) is (self.urls is None):
            raise ValueError("exactly one of 'url' and 'urls' is required")
        if len(set(self.addresses)) != len(self.addresses):
            raise ValueError("duplicate address")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.urls or (self.url or "",)


class Match(Section):
    """Which requests a route takes."""

    path: Annotated[str, AfterValidator(_valid_template)]
    """Path template, such as /orders/{id} or /reports/{name}.json; {rest...} at the end matches all that follows."""

    methods: Annotated[frozenset[Method], Field(min_length=1)]
    """Allowed methods, such as GET or PROPFIND; others get 405. GET includes HEAD."""

    hosts: frozenset[Host] = frozenset()
    """Hosts, such as api.example.com, or *.example.com for its subdomains at any depth; all hosts by default."""

    headers: Annotated[dict[HeaderName, HeaderValue], Field(default_factory=dict, json_schema_extra=CLOSED_MAPPING)]
    """Header fields that the request must have exactly once, with exactly this value."""

    @cached_property
    def template(self) -> PathTemplate:
        return parse_template(self.path)

    @cached_property
    def conditions(self) -> frozenset[Conditions]:
        """What a request has to meet besides its method, for each host: equal for the same requests."""
        headers = frozenset((name.lower(), value) for name, value in self.headers.items())
        return frozenset((self.template.shape, host, headers) for host in self.hosts or {""})


class Route(RoutePolicies):
    """Which requests go to which upstream, and what they must carry."""

    name: Name
    """Name of the route in logs, metrics and errors."""

    match: Match
    """Which requests the route takes."""

    upstream: Annotated[
        Annotated[Name, Tag("text")]
        | Annotated[
            dict[Name, Annotated[int, Field(strict=True, ge=1, le=1000)]],
            Field(min_length=2, json_schema_extra=CLOSED_MAPPING),
            Tag("other"),
        ],
        Discriminator(text_or_other),
    ]
    """Name of an upstream, or several names with their weights."""

    access: Annotated[
        Annotated[Literal["public", "optional", "authenticated"], Tag("text")] | Annotated[Requirements, Tag("other")],
        Discriminator(text_or_other),
    ]
    """`public`, `optional` to tell the service who is logged in if anybody is, `authenticated` for any valid access
    token, or what the token must carry."""

    credentials: Annotated[frozenset[Literal["bearer", "cookie"]], Field(min_length=1)] | None = None
    """How requests may carry the access token: `bearer` for the header field Authorization, `cookie` for browser
    sessions. Both by default where there is a section `browser`, else `bearer` alone."""

    login: Literal["redirect"] | None = None
    """`redirect` leads people without a session to the login page, instead of a 401."""

    embed: Literal["same-site"] | None = None
    """`same-site` lets pages of sibling domains embed what the session may read, as in frames and images."""

    rewrite: Annotated[str, AfterValidator(_valid_template)] | None = None
    """Template of the path for the upstream, with the parameters of match.path."""

    allows_encoded: frozenset[Special] = frozenset()
    """Characters that services may read in two ways, and that paths may have here all the same, such as / for %2F."""

    websocket: StrictBool = False
    """Whether requests may be upgraded to WebSockets."""

    max_staleness: Annotated[
        Annotated[float, Field(strict=True, ge=0.2, le=3600), Tag("other")]
        | Annotated[Literal["default", "none"], Tag("text")],
        Discriminator(text_or_other),
    ] = "default"
    """Maximum age of revocation data in seconds; `default` is the gateway's setting, `none` is unlimited."""

    @model_validator(mode="after")
    def _check_rewrite(self) -> Self:
        if self.rewrite is not None:
            unknown = set(parameters(self.rewrite)) - set(parameters(self.match.path))
            if unknown or len(set(parameters(self.rewrite))) != len(parameters(self.rewrite)):
                raise ValueError("'rewrite' must use parameters of 'match.path', each at most once")
        return self

    @model_validator(mode="after")
    def _check_rate_limits(self) -> Self:
        if self.access == "public" and any(limit.by != "address" for limit in self.rate_limits):
            raise ValueError("a public route takes no tokens: its rate limits must be 'by: address'")
        return self

    @model_validator(mode="after")
    def _check_max_staleness(self) -> Self:
        if self.access == "public" and self.max_staleness != "default":
            raise ValueError("a public route takes no tokens: 'max_staleness' does not apply")
        return self

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        for name in ("credentials", "login", "embed"):
            if self.access == "public" and getattr(self, name) is not None:
                raise ValueError(f"a public route takes no credentials: '{name}' does not apply")
        if self.access == "optional" and self.login is not None:
            raise ValueError("nobody has to log in for an optional route: 'login' does not apply")
        if self.login is not None and "GET" not in self.match.methods:
            raise ValueError("'login' is for pages: the route must take GET")
        if self.embed is not None and self.match.methods.isdisjoint({"GET", "HEAD"}):
            raise ValueError("'embed' is for what pages read: the route must take GET or HEAD")
        return self

    def policy(self, name: str, default: Any) -> Any:
        """Return a policy of this route, completed by the default. Raises ValidationError if they do not fit."""
        if name in self.model_fields_set:
            own = getattr(self, name)
            return own.over(default) if isinstance(own, Section) and isinstance(default, Section) else own
        if name == "retries" and not self.match.methods & IDEMPOTENT:
            return None
        if name == "rate_limits" and self.access == "public":
            # There is no token to count by.
            return tuple(limit for limit in default if limit.by == "address")
        return default

    @property
    def upstreams(self) -> Mapping[str, int]:
        """Weights by upstream."""
        return {self.upstream: 1} if isinstance(self.upstream, str) else self.upstream

    @cached_property
    def upstream_template(self) -> PathTemplate:
        """Template of the paths that the upstream gets."""
        return parse_template(self.rewrite if self.rewrite is not None else self.match.path)

    @cached_property
    def rewritten_starts(self) -> tuple[bytes, bytes]:
        """The literal start of the paths that the route takes, and what `rewrite` makes of it."""
        before, after = (
            template.filled(lambda _: "\0").partition("\0")[0].encode()
            for template in (self.match.template, self.upstream_template)
        )
        return before, after

    @cached_property
    def is_public(self) -> bool:
        return self.access == "public"

    @property
    def is_optional(self) -> bool:
        """Whether the route takes requests without credentials, and verifies those that have some."""
        return self.access == "optional"

    @property
    def takes_bearers(self) -> bool:
        return not self.is_public and (self.credentials is None or "bearer" in self.credentials)

    @property
    def takes_cookies(self) -> bool:
        """Whether the cookies of a browser session count, in a file that has been loaded."""
        return not self.is_public and self.credentials is not None and "cookie" in self.credentials

    @cached_property
    def requirements(self) -> Requirements | None:
        """What the token must carry; None if any valid token will do, or none is required."""
        return self.access if isinstance(self.access, Requirements) else None

    def admits_like(self, other: "Route") -> bool:
        """Return whether both routes have the same access rules."""
        return (self.access, self.credentials, self.embed) == (other.access, other.credentials, other.embed)

    def implies_access_to(self, other: "Route") -> bool:
        """Return whether the other route, too, accepts each request that this one accepts, for the same person.

        A public route knows nobody, so no credential of its requests counts that would not count for the other one.
        """
        if other.is_public:
            return True
        if self.is_public or not self._counts_no_more_than(other):
            return self.is_public and other.is_optional
        if self.is_optional or other.is_optional:
            return other.is_optional
        mine, theirs = self.requirements, other.requirements
        if theirs is None or mine is None:
            return theirs is None
        return (
            theirs.scopes <= mine.scopes and theirs.roles <= mine.roles and theirs.claims.items() <= mine.claims.items()
        )

    def _counts_no_more_than(self, other: "Route") -> bool:
        """Return whether each credential that counts for this route counts for the other one, too."""
        if (self.takes_bearers and not other.takes_bearers) or (self.takes_cookies and not other.takes_cookies):
            return False
        return self.embed is None or other.embed is not None

    @cached_property
    def staleness_limit(self) -> float | EllipsisType | None:
        """`max_staleness` as `Verifier` takes it."""
        if isinstance(self.max_staleness, str):
            return ... if self.max_staleness == "default" else None
        return self.max_staleness


class RoutesFile(Section):
    """A routes file: upstreams, and the routes to them."""

    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1, json_schema_extra=CLOSED_MAPPING)]
    """The services behind the gateway, by name."""

    hosts_internal: frozenset[Host] = frozenset()
    """Names by which other services call the gateway, such as gateway; other hosts that nobody configured get 421."""

    defaults: RoutePolicies = RoutePolicies()
    """Default policies of all routes. There is no default for `access`: each route sets it."""

    browser: BrowserSessions | None = None
    """Browser sessions: with it, people may use routes by the cookies that a login at the auth service has set."""

    routes: tuple[Route, ...]
    """Routes; their order does not matter. Requests that match none get 404."""

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts of all routes."""
        return frozenset(host for route in self.routes for host in route.match.hosts)

    @property
    def unused_upstreams(self) -> list[str]:
        used = {name for route in self.routes for name in route.upstreams}
        return sorted(self.upstreams.keys() - used - ({self.browser.upstream} if self.browser is not None else set()))
