"""Sessions of browsers, and the gateways' way to their tokens."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
from users import new_user

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.model import BrowserGrant
from ostiary_auth.services import Services
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID

EXCHANGE = "/sessions/exchange"


def gateway_credentials(config: AuthConfig) -> tuple[str, str]:
    return GATEWAYS_CLIENT_ID, config.gateway_secret_path.read_text().strip()


async def open_browser(
    services: Services, user: User | None = None, *, at: datetime | None = None, persistent: bool = True
) -> BrowserGrant:
    """Open a session in a browser, by default of a new user. No password is needed here."""
    now = at or datetime.now(UTC)
    async with services.store.write() as transaction:
        if user is None:
            user = new_user(f"{uuid4()}@example.com", at=now)
            await transaction.users.add(user)
        return await services.sessions.open_in_browser(
            transaction, user, FIRST_PARTY_CLIENT_ID, Context(now), persistent=persistent
        )


async def exchange(client: httpx.AsyncClient, config: AuthConfig, credential: str, **members: Any) -> httpx.Response:
    """Exchange a session as a gateway does."""
    body = {"session": credential, **members}
    return await client.post(EXCHANGE, json=body, auth=gateway_credentials(config))
