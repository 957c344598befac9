"""Access tokens: JWTs of the profile of RFC 9068, signed with RS256."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ostiary import KeySet
from ostiary.errors import TokenError
from ostiary.feed import MAX_NUMBER
from ostiary.jwt import IssuedToken, read_issued
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.keys.key_ring import KeyRing, SigningKey
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


class AccessTokens:
    """Signs and reads access tokens.

    `key_ring` returns the current keys, `public` their public halves. OpenSSL releases the interpreter lock while it
    signs, so with several cores threads sign while the event loop continues; with one core, handing over would only
    cost (ADR 7 has measurements).
    """

    def __init__(
        self, policy: TokenPolicy, key_ring: Callable[[], KeyRing], public: Callable[[], KeySet], cores: int
    ) -> None:
        self._policy = policy
        self._key_ring = key_ring
        self._public = public
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

    def read(self, token: str) -> IssuedToken | None:
        """Return an access token of this issuer, for any audience and of any time. None if it is not one."""
        try:
            return read_issued(token, self._policy.issuer, self._public())
        except TokenError:
            return None

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
