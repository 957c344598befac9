"""What a verified access token says, and the checks that make it verified (RFC 9068 section 4)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ostiary.errors import (
    Expired,
    InsufficientRole,
    InsufficientScope,
    Malformed,
    MissingClaim,
    NotYetValid,
    WrongAudience,
    WrongIssuer,
)

#: Seconds since the epoch at the end of the year 9999: no date of a token lies behind it, and
#: up to it a date fits every type that a date is put into.
MAX_NUMERIC_DATE = 253_402_300_799


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """The claims of an access token whose signature and claims were checked. Dates are seconds since the epoch."""

    issuer: str
    subject: str
    audience: tuple[str, ...]
    client_id: str
    token_id: str
    session_id: str | None
    issued_at: float
    expires_at: float
    auth_time: float | None
    scopes: frozenset[str]
    roles: frozenset[str]
    #: All claims, as the token has them.
    claims: Mapping[str, object]

    def require(self, *, scopes: Collection[str] = (), roles: Collection[str] = ()) -> None:
        """Check that the token carries all of `scopes` and all of `roles`.

        Raises InsufficientScope or InsufficientRole (RFC 6750 section 3.1).
        """
        if not self.scopes.issuperset(scopes):
            raise InsufficientScope(frozenset(scopes))
        if not self.roles.issuperset(roles):
            raise InsufficientRole


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What the claims of a token are held against. `leeway` is in seconds."""

    issuer: str
    audience: str
    leeway: float


def check_claims(claims: dict[str, object], rules: ClaimRules, now: float) -> VerifiedToken:
    """Check the claims of a token whose signature has been verified.

    Raises WrongIssuer, WrongAudience, Expired, NotYetValid, MissingClaim or Malformed.
    """
    issuer = _text(claims, "iss")
    if issuer != rules.issuer:
        raise WrongIssuer
    audience = _audience(claims)
    if rules.audience not in audience:
        raise WrongAudience
    expires_at = _date(claims, "exp")
    if now >= expires_at + rules.leeway:  # "on or after" (RFC 7519 section 4.1.4)
        raise Expired
    issued_at = _date(claims, "iat")
    not_before = _date(claims, "nbf") if "nbf" in claims else issued_at
    if now < max(issued_at, not_before) - rules.leeway:
        raise NotYetValid
    return VerifiedToken(
        issuer=issuer,
        subject=_text(claims, "sub"),
        audience=audience,
        client_id=_text(claims, "client_id"),
        token_id=_text(claims, "jti"),
        session_id=_text(claims, "sid") if "sid" in claims else None,
        issued_at=issued_at,
        expires_at=expires_at,
        auth_time=_date(claims, "auth_time") if "auth_time" in claims else None,
        scopes=_scopes(claims),
        roles=_roles(claims),
        claims=MappingProxyType(claims),
    )


def _required(claims: dict[str, object], name: str) -> object:
    try:
        return claims[name]
    except KeyError:
        raise MissingClaim(name) from None


def _text(claims: dict[str, object], name: str) -> str:
    value = _required(claims, name)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name} is not a non-empty string")
    return value


def _date(claims: dict[str, object], name: str) -> float:
    """Read a NumericDate (RFC 7519 section 2): a number, and `true` is none."""
    value = _required(claims, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(f"{name} is not a number")
    if not 0 <= value <= MAX_NUMERIC_DATE:
        raise Malformed(f"{name} is out of range")
    return value


def _audience(claims: dict[str, object]) -> tuple[str, ...]:
    """Read `aud`: one string or a list of them (RFC 7519 section 4.1.3)."""
    value = _required(claims, "aud")
    return (value,) if isinstance(value, str) else _texts(value, "aud")


def _scopes(claims: dict[str, object]) -> frozenset[str]:
    """Read `scope`: names divided by single spaces (RFC 6749 section 3.3)."""
    value = claims.get("scope", "")
    if not isinstance(value, str):
        raise Malformed("scope is not a string")
    return frozenset(value.split(" ")) if value else frozenset()


def _roles(claims: dict[str, object]) -> frozenset[str]:
    """Read `roles`: a list of strings (RFC 9068 section 2.2.3.1)."""
    return frozenset(_texts(claims.get("roles", []), "roles"))


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Malformed(f"{name} is not a list of strings")
    return tuple(value)
