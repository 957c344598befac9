"""Client assertions: JWTs by which a client authenticates (RFC 7523 sections 2.2 and 3)."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.oauth.jwt_times import is_current
from ostiary_auth.domain.oauth.model import Client

#: How far in the future an assertion may expire, and its maximum length.
MAX_ASSERTION_LIFETIME = timedelta(minutes=5)
MAX_ASSERTION_CHARACTERS = 8192

#: Algorithms of assertions, and the type of key that each uses (RFC 7518 section 3.1).
ASSERTION_ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}


@dataclass(frozen=True, slots=True)
class UsableOnce:
    """A valid assertion, as it is stored until it expires to detect replays."""

    hash: bytes
    expires_at: datetime


def verify(client: Client, assertion: str, audiences: frozenset[str], now: datetime) -> UsableOnce | None:
    """Check an assertion, except for replay (RFC 7523 section 3). None if it is not valid."""
    claims = _verified_claims(client, assertion, now)
    if claims is None or claims["iss"] != client.id or claims["sub"] != client.id:
        return None
    # One audience, and ours: an assertion for another server must not work here (RFC 7523bis).
    if not isinstance(claims["aud"], str) or claims["aud"] not in audiences:
        return None
    if type(claims["exp"]) not in {int, float} or claims["exp"] > (now + MAX_ASSERTION_LIFETIME).timestamp():
        return None
    if not isinstance(claims["jti"], str) or not claims["jti"].isprintable():
        return None
    used = hashlib.sha256(f"{client.id}\0{claims['jti']}".encode()).digest()
    return UsableOnce(used, datetime.fromtimestamp(claims["exp"], UTC))


def claimed_client(assertion: str) -> str:
    """Return the subject of an assertion that has not been verified. Raises InvalidClient."""
    try:
        if len(assertion) > MAX_ASSERTION_CHARACTERS:
            raise InvalidClient
        subject = jwt.decode(assertion, options={"verify_signature": False}).get("sub")
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidClient("The assertion is not a valid JWT.") from None
    if not isinstance(subject, str):
        raise InvalidClient("The assertion has no subject.")
    return subject


def _verified_claims(client: Client, assertion: str, now: datetime) -> dict[str, Any] | None:
    """Return the claims if one of the client's keys has signed them and they are valid now."""
    header = jwt.get_unverified_header(assertion)
    algorithm, kid = header.get("alg"), header.get("kid")
    kind = ASSERTION_ALGORITHMS.get(str(algorithm))
    for key in (client.jwks or {})["keys"]:
        other = key.get("alg", algorithm) != algorithm or (kid is not None and key.get("kid", kid) != kid)
        if key["kty"] != kind or other:
            continue
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion,
                jwt.PyJWK(key, algorithm=algorithm),
                algorithms=[str(algorithm)],
                options={
                    "require": ["iss", "sub", "aud", "exp", "jti"],
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if is_current(claims, now):
            return claims
    return None
