"""The gateway as an application: its own endpoints, and everything else to the proxy."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from ostiary import Verifier
from ostiary.fastapi import Auth
from ostiary.prometheus import PrometheusObserver
from ostiary_chassis.app import new_app
from ostiary_gateway.config import GatewayConfig
from ostiary_gateway.proxy import CanonicalPaths, Proxy
from ostiary_gateway.routes_file import RoutesFile
from ostiary_gateway.routing import RouteTable

#: Connections to one upstream.
MAX_CONNECTIONS = 256


def create_app(
    config: GatewayConfig,
    routes: RoutesFile,
    *,
    verifier: Verifier | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """Return the application. `verifier` and `transport` replace the configured ones in tests."""
    registry = CollectorRegistry()
    verifier = verifier or Verifier(
        config.issuer_config(), max_staleness=config.max_staleness, observer=PrometheusObserver(registry)
    )
    tls = ssl.create_default_context()
    transports = {name: transport or _transport(tls) for name in routes.upstreams}

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            await running.enter_async_context(verifier)
            for upstream in transports.values():
                await running.enter_async_context(upstream)
            yield

    async def can_decide() -> bool:
        return verifier.ready

    app = new_app(
        title="Ostiary gateway",
        version=version("ostiary-gateway"),
        lifespan=lifespan,
        ready_checks={"verifier": can_decide},
        registry=registry,
        exception_handlers=Auth(verifier).exception_handlers,
        openapi_url=None,
        # For bodies, each route has a limit of its own.
        guard=Middleware(CanonicalPaths),
    )
    app.router.default = Proxy(RouteTable(routes.routes), routes.upstreams, verifier, transports)
    return app


def _transport(tls: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    # No connection is used twice: what an upstream sends beyond the end of a response would be taken
    # for the response to somebody else's next request.
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False)
