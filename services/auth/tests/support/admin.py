"""An administrator's session over HTTP."""

from datetime import UTC, datetime
from typing import Any

import httpx
from users import new_user

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services

REPORTS = {"id": "reports", "name": "Nightly reports", "scopes": ["orders:read"]}


class Admin:
    """Somebody with a token, and the API."""

    def __init__(self, client: httpx.AsyncClient, user: User, token: str) -> None:
        self.client = client
        self.user = user
        self.headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        return await self.client.request(method, path, json=body, headers=self.headers)

    async def get(self, path: str) -> Any:
        response = await self.ask("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        response = await self.ask(method, path, body)
        assert response.headers["Content-Type"] == "application/problem+json"
        return response.status_code, response.json()["code"]

    async def last_entry(self) -> Any:
        return (await self.get("/admin/audit?limit=200"))["entries"][-1]

    async def client_token(self, secret: str, client_id: str = "reports") -> httpx.Response:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        return await self.client.post("/oauth/token", data=form)


async def add_user(services: Services, name: str, *roles: str) -> User:
    """Add a user who cannot log in, which saves the time to hash a password."""
    user = new_user(f"{name}@example.com", *roles)
    async with services.store.write() as transaction:
        await transaction.users.add(user)
    return user


async def open_session(services: Services, user: User) -> tuple[str, str]:
    """Return the access and the refresh token of a new session."""
    context = Context(datetime.now(UTC), source="203.0.113.9", user_agent="Test/1.0")
    async with services.store.write() as transaction:
        grant = await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
    return (await services.tokens.for_session(grant, context.now)).token, grant.refresh_token


async def logged_in(services: Services, client: httpx.AsyncClient, name: str, *roles: str) -> Admin:
    user = await add_user(services, name, *roles)
    access, _ = await open_session(services, user)
    return Admin(client, user, access)
