"""Users, their credentials, and headers with their tokens."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.model import Grant
from ostiary_auth.services import Services

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
ADA = {"email": EMAIL, "password": PASSWORD}


def new_user(
    email: str = EMAIL,
    *roles: str,
    at: datetime | None = None,
    name: str | None = None,
    password_hash: str = "-",  # noqa: S107 - no hash
) -> User:
    """Return a user with the role `user` unless others are given, whom by default no password authenticates."""
    return User(
        id=uuid4(),
        email=email,
        email_key=email,
        display_name=name,
        password_hash=password_hash,
        roles=roles or ("user",),
        disabled_at=None,
        created_at=at or datetime.now(UTC),
    )


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    """Return the header with the access token of a login's response."""
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def log_in(
    services: Services, user: User | None = None, client_id: str = FIRST_PARTY_CLIENT_ID
) -> tuple[Grant, str]:
    """Return a session of a user, by default of a new one, with an access token. No password is needed here."""
    now = datetime.now(UTC)
    async with services.store.write() as transaction:
        if user is None:
            user = new_user(f"{uuid4()}@example.com", at=now)
            await transaction.users.add(user)
        grant = await services.sessions.open(transaction, user, client_id, Context(now))
    return grant, (await services.tokens.for_session(grant, now)).token
