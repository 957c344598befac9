"""Logins from chosen places and times."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx

from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.attempts import (
    Counter,
    Keys,
)
from ostiary_auth.services import Services, ServiceSecrets

SECOND = timedelta(seconds=1)


EMAIL = "ada@example.com"


PASSWORD = "correct horse battery staple"


HOME = "192.0.2.7"


ELSEWHERE = "198.51.100.9"


ADA = {"email": EMAIL, "password": PASSWORD}


async def block(services: Services, keys: Keys) -> None:
    now = datetime.now(UTC)
    async with services.store.write() as transaction:
        for key, allowance in keys.items():
            await transaction.throttles.lock([key], now)
            blocked = Counter(allowance.free + 1, now + timedelta(minutes=5), now + timedelta(hours=1))
            await transaction.throttles.put({key: blocked})


@asynccontextmanager
async def serving(config: AuthConfig, own: ServiceSecrets, peer: str = HOME) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application with settings of its own, for callers at one address."""
    app = create_app(config, own)
    transport = httpx.ASGITransport(app, client=(peer, 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=config.issuer) as client,
    ):
        yield client


def bearer(response: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {response.json()['access_token']}"}
