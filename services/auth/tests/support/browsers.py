"""Sessions of browsers, and the gateways' way to their tokens."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
from users import new_user

from ostiary.browser import cookie_names
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.model import BrowserGrant
from ostiary_auth.services import Services
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID

#: The issuer of tests is http://localhost:8080.
NAMES = cookie_names("http://localhost:8080")
SESSION_COOKIE, TOKEN_COOKIE, DEVICE_COOKIE = (name.decode() for name in (NAMES.session, NAMES.token, NAMES.device))

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


def cookies_of(response: httpx.Response) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the value and the attributes of each cookie that a response sets."""
    found = {}
    for field in response.headers.get_list("set-cookie"):
        pair, *attributes = field.split("; ")
        name, _, value = pair.partition("=")
        assert name not in found, field
        found[name] = value, dict(attribute.partition("=")[::2] for attribute in attributes)
    return found


def cookie_header(credential: str, token: str | None = None) -> dict[str, str]:
    """Return the header of a browser with a session."""
    pairs = [f"{SESSION_COOKIE}={credential}", *([f"{TOKEN_COOKIE}={token}"] if token else [])]
    return {"Cookie": "; ".join(pairs)}
