"""What a route requires of an access token: scopes, roles, and conditions on claims."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ostiary import VerifiedToken
from ostiary_gateway.routing.types import Permission, Scalar, Section

# The verifier checks these itself; scopes and roles have fields of their own.
_UNSUPPORTED_CLAIMS = {"aud", "exp", "iat", "nbf", "jti", "scope", "roles", "auth_time"}

# Claims that are attributes of a verified token.
_TOKEN_ATTRIBUTES = {"sub": "subject", "client_id": "client_id", "iss": "issuer", "sid": "session_id"}


class Condition(Section):
    """A condition on a claim. Exactly one of the fields is set."""

    equals: Scalar | None = None
    """The claim equals this value."""

    one_of: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    """The claim equals one of these values."""

    contains: Scalar | None = None
    """The claim is a list that contains this value."""

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        given = [each for each in (self.equals, self.one_of, self.contains) if each is not None]
        if len(given) != 1:
            raise ValueError("exactly one of 'equals', 'one_of' and 'contains' is required")
        return self

    def holds(self, value: object) -> bool:
        """Evaluate the condition. Types count: 1, 1.0 and true are different values."""
        if self.contains is not None:
            return isinstance(value, list | tuple) and any(_is_same(self.contains, item) for item in value)
        allowed = self.one_of if self.one_of is not None else (self.equals,)
        return any(_is_same(each, value) for each in allowed)


def _is_same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


class Requirements(Section):
    """What the access token must carry: all of this."""

    scopes: frozenset[Permission] = frozenset()
    """The token has all of these scopes."""

    roles: frozenset[Permission] = frozenset()
    """The token has all of these roles."""

    claims: dict[str, Condition] = Field(default_factory=dict)
    """Conditions on other claims of the token; all must hold."""

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.scopes and not self.roles and not self.claims:
            raise ValueError(
                "at least one of 'scopes', 'roles' and 'claims' is required; use 'authenticated' to accept any token"
            )
        return self

    @model_validator(mode="after")
    def _check_claims_are_supported(self) -> Self:
        if unsupported := sorted(_UNSUPPORTED_CLAIMS.intersection(self.claims)):
            raise ValueError(
                f"no conditions on {', '.join(unsupported)} allowed; use 'scopes' and 'roles' for scopes and roles"
            )
        return self

    def claims_hold(self, token: VerifiedToken) -> bool:
        """Evaluate the conditions on claims alone; `VerifiedToken.require` checks scopes and roles."""
        return all(condition.holds(claim_value(token, name)) for name, condition in self.claims.items())


def claim_value(token: VerifiedToken, name: str) -> object:
    """Return the value of a claim that conditions may name; None if the token does not have it."""
    attribute = _TOKEN_ATTRIBUTES.get(name)
    return getattr(token, attribute) if attribute is not None else token.claims.get(name)
