"""Access tokens: JWTs of the access token profile (RFC 9068), signed with RS256."""

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import jwt

from ostiary_auth.domain.keys import SigningKey
from ostiary_auth.domain.sessions import Grant

#: `client_id` (RFC 9068 section 2.2) of people who log in at `/auth/login`.
FIRST_PARTY_CLIENT_ID = "first-party"


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What goes into every access token. `lifetime` is in seconds."""

    issuer: str
    audience: str
    lifetime: int


def lifetime(grant: Grant, policy: TokenPolicy, now: datetime) -> int:
    """Return the seconds that an access token may live: none outlives its session."""
    return min(policy.lifetime, int((grant.session.expires_at - now).total_seconds()))


def sign_access_token(grant: Grant, policy: TokenPolicy, key: SigningKey, now: datetime) -> str:
    """Return a signed access token for a user in a session."""
    issued_at = int(now.timestamp())
    claims = {
        "iss": policy.issuer,
        "aud": policy.audience,
        "sub": str(grant.user.id),
        "client_id": FIRST_PARTY_CLIENT_ID,
        "exp": issued_at + lifetime(grant, policy, now),
        "iat": issued_at,
        "nbf": issued_at,
        "jti": str(uuid4()),
        "sid": str(grant.session.id),
        "auth_time": int(grant.session.created_at.timestamp()),
        "scope": " ".join(grant.user.scopes),
        "roles": list(grant.user.roles),
    }
    return jwt.encode(claims, key.private_key, algorithm="RS256", headers={"typ": "at+jwt", "kid": key.kid})
