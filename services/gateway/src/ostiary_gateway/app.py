"""The gateway as an application: its own endpoints, and everything else to the proxy."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import httpx
from fastapi import FastAPI

from ostiary import Verifier, VerifierConfig
from ostiary.fastapi import Auth
from ostiary_chassis.app import new_app
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.proxy import Proxy
from ostiary_gateway.routes_file import RoutesFile
from ostiary_gateway.routing import RouteTable

#: Connections to all upstreams together, and those of them kept open while idle.
MAX_CONNECTIONS = 512
MAX_IDLE_CONNECTIONS = 128

#: Seconds that an idle connection is kept: less than the upstreams keep theirs (75 s), so that
#: none is closed on the other side just when it is used.
IDLE_SECONDS = 30.0


def create_app(
    config: GatewayConfig,
    routes: RoutesFile,
    *,
    verifier: Verifier | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """Return the application. `verifier` and `transport` replace the configured ones in tests."""
    verifier = verifier or Verifier(
        VerifierConfig(issuer=config.issuer, audience=config.audience, jwks_url=config.jwks_url)
    )
    client = httpx.AsyncClient(
        transport=transport,
        verify=ssl.create_default_context(),
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
        ),
        follow_redirects=False,
        trust_env=False,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with verifier, client:
            yield

    async def keys_held() -> bool:
        return verifier.ready

    app = new_app(
        title="Ostiary gateway",
        version=version("ostiary-gateway"),
        lifespan=lifespan,
        ready_checks={"keys": keys_held},
        exception_handlers=Auth(verifier).exception_handlers,
        openapi_url=None,
        # Each route has a limit of its own.
        max_body_bytes=None,
    )
    app.router.default = Proxy(RouteTable(routes.routes), routes.upstreams, verifier, client)
    return app
