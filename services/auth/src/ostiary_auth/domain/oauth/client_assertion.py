"""Client assertions: JWTs by which a client authenticates (RFC 7523 sections 2.2 and 3)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from ostiary.errors import TokenError
from ostiary.jwt import SignedClaims, numeric_date, parse
from ostiary_auth.domain.clock import CLOCK_MARGIN
from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.oauth.model import Client

#: How far in the future an assertion may expire, and its maximum length.
MAX_ASSERTION_LIFETIME = timedelta(minutes=5)
MAX_ASSERTION_CHARACTERS = 8192

#: Algorithms of assertions, and the type of key that each uses (RFC 7518 section 3.1).
ASSERTION_ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}


@dataclass(frozen=True, slots=True)
class UsableOnce:
    """A valid assertion, as it is stored to detect replays until no replica accepts it any more."""

    hash: bytes
    expires_at: datetime


def claimed_client(assertion: str) -> str:
    """Return the subject of an assertion that has not been verified. Raises InvalidClient."""
    try:
        subject = parse(assertion, MAX_ASSERTION_CHARACTERS).claims.get("sub")
    except TokenError:
        raise InvalidClient("The assertion is not a valid JWT.") from None
    if not isinstance(subject, str):
        raise InvalidClient("The assertion has no subject.")
    return subject


def verify(client: Client, assertion: str, audiences: frozenset[str], now: datetime) -> UsableOnce | None:
    """Check an assertion, except for replay (RFC 7523 section 3). None if it is not valid."""
    try:
        signed = parse(assertion, MAX_ASSERTION_CHARACTERS)
        expires_at = _valid_until(signed.claims, now)
    except TokenError:
        return None
    if expires_at is None or not _is_from(client, signed.claims, audiences) or not _is_signed_by(client, signed):
        return None
    used = hashlib.sha256(f"{client.id}\0{signed.claims['jti']}".encode()).digest()
    return UsableOnce(used, expires_at + CLOCK_MARGIN)


def _valid_until(claims: Mapping[str, object], now: datetime) -> datetime | None:
    """Return when an assertion expires, None if it is not valid now. Raises a TokenError for what is no time."""
    expires_at = datetime.fromtimestamp(numeric_date("exp", claims.get("exp")), UTC)
    begins_at = max(numeric_date(name, claims.get(name, 0)) for name in ("iat", "nbf"))
    is_early = begins_at > (now + CLOCK_MARGIN).timestamp()
    return expires_at if not is_early and now < expires_at <= now + MAX_ASSERTION_LIFETIME else None


def _is_from(client: Client, claims: Mapping[str, object], audiences: frozenset[str]) -> bool:
    """Return whether an assertion is by and about a client, for us, and has an id."""
    identifier, audience = claims.get("jti"), claims.get("aud")
    # One audience, and ours: an assertion for another server must not work here (RFC 7523bis).
    is_for_us = isinstance(audience, str) and audience in audiences
    has_id = isinstance(identifier, str) and identifier.isprintable() and identifier != ""
    return claims.get("iss") == claims.get("sub") == client.id and is_for_us and has_id


def _is_signed_by(client: Client, signed: SignedClaims) -> bool:
    """Return whether one of the client's keys has signed; `kid` and `alg` of a key are heeded where given."""
    algorithm, kid = signed.header.get("alg"), signed.header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ASSERTION_ALGORITHMS:
        return False
    return any(
        _verifies(key, algorithm, signed)
        for key in (client.jwks or {})["keys"]
        if key["kty"] == ASSERTION_ALGORITHMS[algorithm]
        and key.get("alg", algorithm) == algorithm
        and (kid is None or key.get("kid", kid) == kid)
    )


def _verifies(key: Mapping[str, object], algorithm: str, signed: SignedClaims) -> bool:
    try:
        public = jwt.PyJWK(dict(key), algorithm=algorithm)
        return public.Algorithm.verify(signed.signing_input, public.key, signed.signature)
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
