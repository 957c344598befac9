"""The routes file: YAML, validated as a whole, with the line at fault in every error.

    upstreams:
      profile: {url: "${OSTIARY_PROFILE_URL:-http://127.0.0.1:8082}"}
    routes:
      - name: read-profile
        match: {path: "/profiles/{id}", methods: [GET]}
        upstream: profile
        access: {scopes: [profile:read]}

A route says who may use it (`access`: public, authenticated, or the scopes and roles it takes); there
is no default for that. Members that are not known are errors.
"""

from collections.abc import Mapping
from functools import cached_property
from types import EllipsisType
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    model_validator,
)

from ostiary import VerifiedToken
from ostiary_chassis.middleware import OPERATIONS
from ostiary_gateway.http1.parser import MAX_HEAD_BYTES
from ostiary_gateway.routing import types
from ostiary_gateway.routing.paths import PathTemplate, parameters, parse_template
from ostiary_gateway.routing.types import (
    Address,
    HeaderName,
    HeaderValue,
    Host,
    Method,
    Name,
    Origin,
    Permission,
    Scalar,
)

#: Bytes of a request body, where a route does not say: enough for JSON, not for floods.
DEFAULT_BODY_BYTES = 1024 * 1024

#: Bytes that a route may allow: a TiB is no limit but a mistake.
MAX_BODY_BYTES = 2**40

#: Seconds, where a route does not say: to connect, until an answer begins, and between two pieces of it.
DEFAULT_CONNECT_SECONDS = 2.0
DEFAULT_FIRST_BYTE_SECONDS = 30.0
DEFAULT_IDLE_SECONDS = 30.0

#: Where the gateway describes the services behind it, and shows that.
DOCUMENT, DOCS = "/openapi.json", "/docs"

#: The paths that the gateway answers itself.
OWN_PATHS = OPERATIONS | {
    DOCUMENT,
    DOCS,
    *(f"{DOCS}/{name}" for name in ("start.js", "swagger-ui-bundle.js", "swagger-ui.css")),
}

#: For editors: a mapping has no other names than those of its pattern.
_NO_OTHERS = {"additionalProperties": False}


class _Part(BaseModel):
    # What a member means stands below it; the JSON Schema says it, too.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class HealthCheck(_Part):
    """What is asked of each address to see whether it is well: it has to answer with 2xx."""

    path: Annotated[str, Field(pattern=types.PATH)]
    """What is asked for."""

    seconds: Annotated[float, Field(strict=True, ge=0.1, le=3600)] = 5.0
    """Seconds between two questions."""

    timeout: Annotated[float, Field(strict=True, ge=0.05, le=60)] = 2.0
    """Seconds that an answer may take."""


class Upstream(_Part):
    """A service behind the gateway: `http://` or `https://` with host and port, or `unix:` with a socket's path."""

    url: Address | None = None
    """Its address; environment variables may stand in it, as in ${ORDERS_URL:-http://127.0.0.1:8083}."""

    urls: Annotated[tuple[Address, ...], Field(min_length=1, max_length=64)] | None = None
    """Several addresses, which share the requests."""

    health: HealthCheck | None = None
    """How to see whether an address is well; without it, it is left out for a while when it fails."""

    connections: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 256
    """To each address at most, WebSockets among them; of each worker."""

    ignores_case: StrictBool = False
    """Whether `/ADMIN` is the same to it as `/admin`: then it takes the access that the routes ask for there."""

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if (self.url is None) is (self.urls is None):
            raise ValueError("say 'url', or 'urls' for several")
        if len(set(self.addresses)) != len(self.addresses):
            raise ValueError("an address stands here twice")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them."""
        return self.urls or (self.url or "",)


class Match(_Part):
    """Which requests a route is for. Without `hosts` all hosts, without `headers` whatever they are."""

    path: Annotated[str, AfterValidator(lambda text: parse_template(text) and text)]
    """As in /orders/{id}; {rest...} at the end takes all that comes."""

    methods: Annotated[frozenset[Method], Field(min_length=1)]
    """The methods that it takes; the others are a 405."""

    hosts: frozenset[Host] = frozenset()
    """As in api.example.com, or *.example.com for one label or more before it; all hosts, if left out."""

    headers: Annotated[dict[HeaderName, HeaderValue], Field(json_schema_extra=_NO_OTHERS)] = {}
    """Fields that a request has once, with exactly this value."""

    @cached_property
    def template(self) -> PathTemplate:
        """The path, ready for matching."""
        return parse_template(self.path)


class Condition(_Part):
    """What a claim must be. One of these."""

    equals: Scalar | None = None
    """The claim is this."""

    one_of: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    """The claim is one of these."""

    contains: Scalar | None = None
    """The claim is a list with this in it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        said = [each for each in (self.equals, self.one_of, self.contains) if each is not None]
        if len(said) != 1:
            raise ValueError("say one of 'equals', 'one_of' and 'contains'")
        return self

    def holds(self, value: object) -> bool:
        """Return whether a claim's value fits. 1, 1.0 and true are three different things."""
        if self.contains is not None:
            return isinstance(value, list | tuple) and any(_same(self.contains, item) for item in value)
        wanted = self.one_of if self.one_of is not None else (self.equals,)
        return any(_same(each, value) for each in wanted)


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


class Requirements(_Part):
    """What the caller's token must carry: all of these."""

    scopes: frozenset[Permission] = frozenset()
    """The token has all of these scopes."""

    roles: frozenset[Permission] = frozenset()
    """The token has all of these roles."""

    claims: dict[str, Condition] = {}
    """Other claims of the token, and what they must be."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.scopes and not self.roles and not self.claims:
            raise ValueError("name scopes, roles or claims, or say 'authenticated'")
        return self

    @model_validator(mode="after")
    def _claims_that_there_are(self) -> Self:
        if read := sorted(_READ.intersection(self.claims)):
            raise ValueError(
                f"no condition can be about {', '.join(read)}; 'scopes' and 'roles' have their own members"
            )
        return self

    def allows(self, token: VerifiedToken) -> bool:
        """Return whether the claims are as they must be."""
        return all(condition.holds(claim_of(token, name)) for name, condition in self.claims.items())


def claim_of(token: VerifiedToken, name: str) -> object:
    """Return what a token says of a claim that conditions can be about; None if it says nothing."""
    attribute = _CLAIMS.get(name)
    return getattr(token, attribute) if attribute is not None else token.claims.get(name)


#: Claims that are looked at anyway.
_READ = {"aud", "exp", "iat", "nbf", "jti", "scope", "roles", "auth_time"}

#: Claims that a verified token has in a place of their own.
_CLAIMS = {"sub": "subject", "client_id": "client_id", "iss": "issuer", "sid": "session_id"}


class Limits(_Part):
    """What a request may cost."""

    body_bytes: Annotated[int, Field(strict=True, ge=0, le=MAX_BODY_BYTES)] = DEFAULT_BODY_BYTES
    """Bytes of the body; more is a 413."""

    header_bytes: Annotated[int, Field(strict=True, ge=256, le=MAX_HEAD_BYTES)] = MAX_HEAD_BYTES
    """Bytes of the request line and the header fields; more is a 431."""


class RateLimit(_Part):
    """How many requests somebody may send: so many at once, and as many again in so many seconds, evenly."""

    by: Literal["address", "subject", "client"]
    """Whose requests are counted together: those from an address, or of a token's subject or client."""

    requests: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    """How many."""

    seconds: Annotated[float, Field(strict=True, ge=0.1, le=86_400)]
    """In how many seconds."""


class Timeouts(_Part):
    """Seconds to wait for the upstream: to be connected, for the response's head, for its next piece, for all of it."""

    connect: Annotated[float, Field(strict=True, ge=0.01, le=60)] = DEFAULT_CONNECT_SECONDS
    """Until it is connected."""

    first_byte: Annotated[float, Field(strict=True, ge=0.01, le=3600)] = DEFAULT_FIRST_BYTE_SECONDS
    """Until the head of its answer is there."""

    idle: Annotated[float, Field(strict=True, ge=0.01, le=3600)] = DEFAULT_IDLE_SECONDS
    """Between two pieces of its answer."""

    total: Annotated[float, Field(strict=True, ge=0.01, le=86_400)] | None = None
    """For all of it; no limit, if left out."""


class Retries(_Part):
    """How often a request without a body is sent again that may be (RFC 9110 section 9.2.2), and after which answers.

    It is sent again in any case if no answer came. No more than a fifth of an upstream's requests are.
    """

    attempts: Annotated[int, Field(strict=True, ge=1, le=5)]
    """How often it is sent again."""

    statuses: frozenset[Annotated[int, Field(strict=True, ge=500, le=599)]] = frozenset()
    """Answers after which it is sent again."""


class Cors(_Part):
    """Which pages of other origins may use a route in browsers (Fetch standard, section 3.2)."""

    origins: Annotated[frozenset[Origin], Field(min_length=1)]
    """As in https://app.example.com, or * for all."""

    headers: frozenset[HeaderName] = frozenset()
    """Fields that they may send, besides Authorization and Content-Type."""

    expose: frozenset[HeaderName] = frozenset()
    """Fields of the answer that they may read, besides X-Request-ID."""

    credentials: StrictBool = False
    """Whether they may send cookies."""

    max_age: Annotated[int, Field(strict=True, ge=0, le=86_400)] = 600
    """Seconds for which a browser remembers this."""

    @model_validator(mode="after")
    def _not_all_with_credentials(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError("name the origins that may send credentials")
        return self


class Route(_Part):
    """Which requests go where, and who may send them."""

    name: Name
    """What logs, metrics and errors call it."""

    match: Match
    """Which requests it is for."""

    upstream: Annotated[
        Annotated[Name, Tag("text")]
        | Annotated[
            dict[Name, Annotated[int, Field(strict=True, ge=1, le=1000)]],
            Field(min_length=2, json_schema_extra=_NO_OTHERS),
            Tag("other"),
        ],
        Discriminator(types.kind),
    ]
    """An upstream, or several with their shares of the requests."""

    access: Annotated[
        Annotated[Literal["public", "authenticated"], Tag("text")] | Annotated[Requirements, Tag("other")],
        Discriminator(types.kind),
    ]
    """Who may use it: everybody, who has a good token, or whose token carries what is named here."""

    rewrite: Annotated[str, AfterValidator(lambda text: parse_template(text) and text)] | None = None
    """The path that the upstream gets, with the parameters of match.path."""

    rate_limits: tuple[RateLimit, ...] = ()
    """How many requests somebody may send."""

    retries: Retries | None = None
    """When a request is sent again."""

    cors: Cors | None = None
    """Which pages of other origins may use it."""

    websocket: StrictBool = False
    """Whether requests may become WebSockets."""

    max_staleness: Annotated[
        Annotated[float, Field(strict=True, ge=0.2, le=3600), Tag("other")]
        | Annotated[Literal["default", "none"], Tag("text")],
        Discriminator(types.kind),
    ] = "default"
    """Seconds by which revocations may be out of date: `default` is the gateway's own, `none` any."""

    limits: Limits = Limits()
    """How large a request may be."""

    timeouts: Timeouts = Timeouts()
    """Seconds to wait for the upstream."""

    @model_validator(mode="after")
    def _rewritten_of_what_is_there(self) -> Self:
        if self.rewrite is not None:
            unknown = set(parameters(self.rewrite)) - set(parameters(self.match.path))
            if unknown or len(set(parameters(self.rewrite))) != len(parameters(self.rewrite)):
                raise ValueError("'rewrite' takes parameters of 'match.path', each once")
        return self

    @model_validator(mode="after")
    def _limits_of_a_token(self) -> Self:
        if self.access == "public" and any(limit.by != "address" for limit in self.rate_limits):
            raise ValueError("a public route takes no tokens; limit it by address")
        if len(set(self.rate_limits)) != len(self.rate_limits):
            raise ValueError("a rate limit stands here twice")
        return self

    @property
    def upstreams(self) -> Mapping[str, int]:
        """The upstreams and their shares."""
        return {self.upstream: 1} if isinstance(self.upstream, str) else self.upstream

    @model_validator(mode="after")
    def _staleness_of_a_token(self) -> Self:
        if self.access == "public" and self.max_staleness != "default":
            raise ValueError("'max_staleness' is about tokens, and a public route takes none")
        return self

    @cached_property
    def target(self) -> PathTemplate:
        """The path that the upstream gets, ready for matching."""
        return parse_template(self.rewrite if self.rewrite is not None else self.match.path)

    @cached_property
    def is_public(self) -> bool:
        """Whether everybody may use it."""
        return self.access == "public"

    @cached_property
    def requirements(self) -> Requirements | None:
        """What the caller's token must carry besides being good, if anything."""
        return self.access if isinstance(self.access, Requirements) else None

    def suffices_for(self, other: "Route") -> bool:
        """Return whether whoever may use this route may use the other one."""
        wanted, asked = other.requirements, self.requirements
        if wanted is None or asked is None:
            return other.is_public or (wanted is None and not self.is_public)
        return (
            wanted.scopes <= asked.scopes
            and wanted.roles <= asked.roles
            and wanted.claims.items() <= asked.claims.items()
        )

    @cached_property
    def bound(self) -> float | EllipsisType | None:
        """The same, as verifiers take it."""
        if isinstance(self.max_staleness, str):
            return ... if self.max_staleness == "default" else None
        return self.max_staleness


class RoutesFile(_Part):
    """The whole file."""

    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1, json_schema_extra=_NO_OTHERS)]
    """The services behind the gateway, by names that routes use."""

    routes: tuple[Route, ...]
    """What is let through; their order does not matter, and what no route names is a 404."""

    @property
    def unused_upstreams(self) -> list[str]:
        """Those that no route leads to."""
        return sorted(self.upstreams.keys() - {name for route in self.routes for name in route.upstreams})
