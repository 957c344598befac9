"""The service's parts, and its application, for as long as a test needs them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.clock import Clock
from ostiary_auth.services import Services, ServiceSecrets

#: Where requests come from.
PEER = "192.0.2.7"


@asynccontextmanager
async def opened(config: AuthConfig, own: ServiceSecrets, machine: Clock | None = None) -> AsyncIterator[Services]:
    """The service's parts, with keys loaded: like another replica, or the command line. `machine` is its clock."""
    services = Services(config, own, machine)
    services.local_keys.use(await services.keys.load())
    yield services
    await services.close()


@asynccontextmanager
async def serving(app: FastAPI, base_url: str = "http://auth") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running application."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(PEER, 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=base_url) as client,
    ):
        yield client
