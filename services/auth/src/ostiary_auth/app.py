"""The auth service as an HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI

from ostiary import Verifier, VerifierConfig
from ostiary.fastapi import Auth
from ostiary.prometheus import PrometheusObserver
from ostiary_auth.background import Background
from ostiary_auth.config import AuthConfig
from ostiary_auth.problems import EXCEPTION_HANDLERS
from ostiary_auth.routes.accounts.admin import user_admin_routes
from ostiary_auth.routes.accounts.endpoints import account_routes
from ostiary_auth.routes.audit.admin import audit_admin_routes
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.keys.admin import key_admin_routes
from ostiary_auth.routes.keys.jwks import jwks_routes
from ostiary_auth.routes.oauth import openapi as oauth_schemas
from ostiary_auth.routes.oauth.admin import client_admin_routes
from ostiary_auth.routes.oauth.endpoints import oauth_routes
from ostiary_auth.routes.oauth.metadata import metadata_routes
from ostiary_auth.routes.revocation.admin import revocation_admin_routes
from ostiary_auth.routes.revocation.events import events_routes
from ostiary_auth.routes.revocation.feed import feed_routes
from ostiary_auth.routes.sessions.endpoints import session_routes
from ostiary_auth.services import LOCAL_MAX_STALENESS, Services, ServiceSecrets
from ostiary_chassis.app import new_app
from ostiary_chassis.metrics import Metrics
from ostiary_chassis.openapi import document_paths
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.sql import storage_handlers


def create_app(config: AuthConfig, own: ServiceSecrets) -> FastAPI:
    """Return the application. `own` is the result of `startup.prepare`."""
    services = Services(config, own)
    verifier_config = VerifierConfig(
        issuer=config.issuer,
        audience=config.audience,
        key_source=services.local_keys.public,
        revocation_source=services.feed.local,
    )
    metrics = Metrics()
    auth = Auth(
        Verifier(verifier_config, max_staleness=LOCAL_MAX_STALENESS, observer=PrometheusObserver(metrics.registry))
    )
    background = Background(services)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await background.follow_keys()
        await background.follow_feed()
        running = asyncio.create_task(background.run())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            with suppress(Exception):
                await services.verifiers.deregister()
            await services.close()

    async def log_followed() -> bool:
        return services.feed.local.revocations.age() <= LOCAL_MAX_STALENESS

    app = new_app(
        title="Ostiary auth service",
        version=version("ostiary-auth"),
        lifespan=lifespan,
        ready_checks={"database": services.database.ping, "revocations": log_followed},
        metrics=metrics,
        exception_handlers={**EXCEPTION_HANDLERS, **auth.exception_handlers, **storage_handlers()},
    )
    app.state.on_stop = services.stop
    dependencies = Dependencies(auth, services.store, TrustedProxies(config.trusted_proxies), services.clock)
    # Routes are matched in order, so the most frequent ones come first. `include_router` would build each again.
    app.router.routes[:0] = [
        *feed_routes(services, dependencies),
        *oauth_routes(services, dependencies),
        *session_routes(services, dependencies),
        *account_routes(services, dependencies),
        *jwks_routes(services),
        *metadata_routes(services),
        *user_admin_routes(services, dependencies),
        *client_admin_routes(services, dependencies),
        *key_admin_routes(services, dependencies),
        *revocation_admin_routes(services, dependencies),
        *audit_admin_routes(services, dependencies),
        *events_routes(services, dependencies),
    ]
    document_paths(app, oauth_schemas.PATHS, oauth_schemas.SECURITY_SCHEMES)
    auth.document(app)
    return app
