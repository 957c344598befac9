"""Access tokens: JWTs of the profile of RFC 9068, signed with RS256."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import jwt

from ostiary.feed import MAX_NUMBER, NO_POSITION
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.keys.key_ring import KeyRing, SigningKey
from ostiary_auth.domain.oauth.jwt_times import is_current
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Client
from ostiary_auth.domain.sessions.model import Entitlement, Session

#: Bytes of randomness in a token's id.
TOKEN_ID_BYTES = 16

#: The media type of access tokens (RFC 9068 section 2.1).
_TYPE = "at+jwt"


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """The same for all access tokens. `lifetime` is in seconds."""

    issuer: str
    audience: str
    lifetime: int


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token; `expires_in` is in seconds."""

    token: str
    expires_in: int
    scope: str


@dataclass(frozen=True, slots=True)
class PresentedToken:
    """An access token of this issuer, with a valid signature and not expired."""

    claims: Mapping[str, Any]

    @property
    def token_id(self) -> str:
        return str(self.claims["jti"])

    @property
    def subject(self) -> str:
        return str(self.claims["sub"])

    @property
    def client_id(self) -> str:
        return str(self.claims["client_id"])

    @property
    def session_id(self) -> UUID | None:
        """None for a client's own token."""
        return UUID(self.claims["sid"]) if "sid" in self.claims else None

    @property
    def log_position(self) -> int:
        """The number of the last revocation before it was issued."""
        return int(self.claims.get("rev", NO_POSITION))


class AccessTokens:
    """Signs and parses access tokens.

    `key_ring` returns the current keys. OpenSSL releases the interpreter lock while it signs, so with several cores
    threads sign while the event loop continues; with one core, handing over would only cost (ADR 7 has measurements).
    """

    def __init__(self, policy: TokenPolicy, key_ring: Callable[[], KeyRing], cores: int) -> None:
        self._policy = policy
        self._key_ring = key_ring
        self._threads = ThreadPoolExecutor(cores, thread_name_prefix="signing") if cores > 1 else None

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def for_session(self, entitlement: Entitlement, now: datetime) -> AccessToken:
        """Return a token for a user, which does not outlive the session."""
        lifetime = min(self._policy.lifetime, int((entitlement.session.expires_at - now).total_seconds()))
        return await self._sign(_claims_for_session(self._policy, entitlement, lifetime, now), lifetime)

    async def for_client(self, client: Client, audience: str, scopes: Iterable[str], now: datetime) -> AccessToken:
        """Return a token for the client itself, which is its subject (RFC 9068 section 2.2)."""
        about = {"aud": audience, "sub": client.id, "client_id": client.id, "roles": [], "rev": client.as_of}
        lifetime = self._policy.lifetime
        return await self._sign(_claims(self._policy, about, scopes, lifetime, now), lifetime)

    def parse(self, token: str, now: datetime) -> PresentedToken | None:
        """Return an access token of this issuer, for any audience. None if it is not one, or not valid now."""
        try:
            header = jwt.get_unverified_header(token)
            key = next(key for key in self._key_ring().published if key.kid == header.get("kid"))
            if header.get("typ") != _TYPE:
                return None
            claims = jwt.decode(
                token,
                key.private_key.public_key(),
                algorithms=["RS256"],
                issuer=self._policy.issuer,
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, StopIteration, ValueError, RecursionError):
            return None
        return PresentedToken(claims) if is_current(claims, now) else None

    async def _sign(self, claims: dict[str, object], lifetime: int) -> AccessToken:
        key = self._key_ring().signing
        if self._threads is None:
            token = key.sign(_TYPE, claims)
        else:
            loop = asyncio.get_running_loop()
            token = await loop.run_in_executor(self._threads, key.sign, _TYPE, claims)
        return AccessToken(token, lifetime, str(claims["scope"]))


def characters_of(policy: TokenPolicy, roles: tuple[str, ...], bits: int, now: datetime) -> int:
    """Return how long an access token for a session of a user with these roles can be; `bits` are those of the key."""
    nobody = UUID(int=0)
    user = User(
        id=nobody,
        email="",
        email_key="",
        display_name=None,
        password_hash="",
        roles=roles,
        disabled_at=None,
        created_at=now,
    )
    session = Session(
        id=nobody,
        user_id=nobody,
        client_id=FIRST_PARTY_CLIENT_ID,
        user_agent=None,
        source=None,
        created_at=now,
        last_used_at=now,
        expires_at=now,
    )
    entitlement = Entitlement(user, session, user.scopes, MAX_NUMBER)
    return SigningKey.signed_characters(_TYPE, _claims_for_session(policy, entitlement, policy.lifetime, now), bits)


def _claims_for_session(
    policy: TokenPolicy, entitlement: Entitlement, lifetime: int, now: datetime
) -> dict[str, object]:
    user, session = entitlement.user, entitlement.session
    about = {
        "aud": policy.audience,
        "sub": str(user.id),
        "client_id": session.client_id,
        "sid": str(session.id),
        "auth_time": int(session.created_at.timestamp()),
        "roles": list(user.roles),
        "rev": entitlement.as_of,
    }
    return _claims(policy, about, entitlement.scopes, lifetime, now)


def _claims(
    policy: TokenPolicy,
    about: Mapping[str, object],
    scopes: Iterable[str],
    lifetime: int,
    now: datetime,
) -> dict[str, object]:
    issued_at = int(now.timestamp())
    return {
        "iss": policy.issuer,
        **about,
        "exp": issued_at + lifetime,
        "iat": issued_at,
        "nbf": issued_at,
        "jti": secrets.token_hex(TOKEN_ID_BYTES),
        "scope": " ".join(scopes),
    }
