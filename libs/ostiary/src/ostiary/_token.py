"""Verified access tokens, and the checks of their claims (RFC 9068 section 4)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from ostiary.errors import (
    Expired,
    InsufficientRole,
    InsufficientScope,
    Malformed,
    MissingClaim,
    NotYetValid,
    WrongAudience,
)

#: Seconds since the epoch at the end of the year 9999. No token has a later date, and dates up to it fit
#: every type for dates.
MAX_NUMERIC_DATE = 253_402_300_799

#: Combinations of scopes, of roles and of audiences in the cache; services have tens of them.
_CACHED_COMBINATIONS = 1024

#: The position of a token without `rev`: it may have been issued before all revocations.
NO_POSITION = -1

_NO_CLAIMS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """An access token with verified signature and claims. Dates are seconds since the epoch."""

    issuer: str
    subject: str
    audience: frozenset[str]
    client_id: str
    token_id: str
    #: The key that signed it.
    key_id: str
    #: None for tokens of clients themselves, which have no login session.
    session_id: str | None
    issued_at: float
    #: `issued_at` if the token has no `nbf`.
    not_before: float
    expires_at: float
    auth_time: float | None
    scopes: frozenset[str]
    roles: frozenset[str]
    #: The number of the last revocation in the issuer's log when it was issued; -1 if the token has no `rev`.
    log_position: int
    #: All further claims.
    claims: Mapping[str, object]

    def require(self, *, scopes: Collection[str] = (), roles: Collection[str] = ()) -> None:
        """Check that the token has all of `scopes` and all of `roles`.

        Raises InsufficientScope or InsufficientRole (RFC 6750 section 3.1).
        """
        if not self.scopes.issuperset(scopes):
            raise InsufficientScope(frozenset(scopes))
        if not self.roles.issuperset(roles):
            raise InsufficientRole

    def check_time(self, now: float, leeway: float) -> None:
        """Check that `now` is within the token's lifetime, give or take `leeway`. Raises Expired or NotYetValid."""
        if now >= self.expires_at + leeway:  # "on or after" (RFC 7519 section 4.1.4)
            raise Expired
        if now < self.issued_at - leeway or now < self.not_before - leeway:
            raise NotYetValid


def read_claims(claims: dict[str, object], issuer: str, audience: str | None, key_id: str) -> VerifiedToken:
    """Check the claims of a token of `issuer` whose signature by `key_id` was verified, but for their time.

    Without an `audience`, the token may be for any.
    Registered claims are removed from `claims`; the rest becomes `VerifiedToken.claims`.
    Raises WrongAudience, MissingClaim or Malformed.
    """
    del claims["iss"]
    names = _audience(claims.pop("aud", None))
    if audience is not None and audience not in names:
        raise WrongAudience
    issued_at = numeric_date("iat", claims.pop("iat", None))
    not_before = numeric_date("nbf", claims.pop("nbf")) if "nbf" in claims else issued_at
    return VerifiedToken(
        issuer,
        _text("sub", claims.pop("sub", None)),
        names,
        _text("client_id", claims.pop("client_id", None)),
        _text("jti", claims.pop("jti", None)),
        key_id,
        _text("sid", claims.pop("sid")) if "sid" in claims else None,
        issued_at,
        # One number in memory, where they are equal: of many tokens, each further one is far away.
        issued_at if not_before == issued_at else not_before,
        numeric_date("exp", claims.pop("exp", None)),
        numeric_date("auth_time", claims.pop("auth_time")) if "auth_time" in claims else None,
        _scopes(claims.pop("scope", "")),
        _set_of(_texts("roles", claims.pop("roles", []))),
        _position(claims.pop("rev")) if "rev" in claims else NO_POSITION,
        MappingProxyType(claims) if claims else _NO_CLAIMS,
    )


def _text(name: str, value: object) -> str:
    if type(value) is str and value:
        return value
    raise _fault(name, value)


def numeric_date(name: str, value: object) -> float:
    """Parse a NumericDate (RFC 7519 section 2), which `true` is not. Raises MissingClaim or Malformed."""
    if type(value) is int or type(value) is float:
        if 0 <= value <= MAX_NUMERIC_DATE:
            return value
        raise Malformed(f"{name} is out of range")
    raise _fault(name, value)


def _position(value: object) -> int:
    """Parse `rev`, a number in a log."""
    if type(value) is int and value >= 0:
        return value
    raise _fault("rev", value)


def _audience(value: object) -> frozenset[str]:
    """Parse `aud`: one string or a list of them (RFC 7519 section 4.1.3)."""
    return _set_of((value,) if type(value) is str else _texts("aud", value))


def _scopes(value: object) -> frozenset[str]:
    """Parse `scope`: names separated by single spaces (RFC 6749 section 3.3)."""
    if type(value) is not str:
        raise _fault("scope", value)
    return _split(value)


def _texts(name: str, value: object) -> tuple[str, ...]:
    """Parse a list of strings (`roles`: RFC 9068 section 2.2.3.1)."""
    if type(value) is list and all([type(item) is str for item in value]):  # noqa: C419 - a list is faster here
        return tuple(value)
    raise _fault(name, value)


def _fault(name: str, value: object) -> MissingClaim | Malformed:
    """Return the error for a claim; `null` counts as missing."""
    return MissingClaim(name) if value is None else Malformed(f"{name} is of the wrong type")


@lru_cache(maxsize=_CACHED_COMBINATIONS)
def _set_of(names: tuple[str, ...]) -> frozenset[str]:
    """Return the same object for the same names: tokens have few combinations, and a set takes a quarter of a KiB."""
    return frozenset(names)


@lru_cache(maxsize=_CACHED_COMBINATIONS)
def _split(scope: str) -> frozenset[str]:
    return _set_of(tuple(scope.split(" "))) if scope else frozenset()
