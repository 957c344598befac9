"""The auth service as an HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from starlette.routing import BaseRoute

from ostiary import Verifier, VerifierConfig
from ostiary.fastapi import Auth
from ostiary.prometheus import PrometheusObserver
from ostiary_auth.background import Background
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts import emails, password_policy
from ostiary_auth.problems import EXCEPTION_HANDLERS
from ostiary_auth.routes.accounts.admin import user_admin_routes
from ostiary_auth.routes.accounts.endpoints import account_routes
from ostiary_auth.routes.audit.admin import audit_admin_routes
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.keys.admin import key_admin_routes
from ostiary_auth.routes.keys.jwks import jwks_routes
from ostiary_auth.routes.oauth import openapi as oauth_openapi
from ostiary_auth.routes.oauth.admin import client_admin_routes
from ostiary_auth.routes.oauth.endpoints import oauth_routes
from ostiary_auth.routes.oauth.metadata import metadata_routes
from ostiary_auth.routes.revocation.admin import revocation_admin_routes
from ostiary_auth.routes.revocation.events import events_routes
from ostiary_auth.routes.revocation.feed import feed_routes
from ostiary_auth.routes.sessions.browser import browser_routes
from ostiary_auth.routes.sessions.cookies import BrowserCookies
from ostiary_auth.routes.sessions.endpoints import session_routes
from ostiary_auth.routes.sessions.exchange import exchange_routes
from ostiary_auth.routes.sessions.openapi import session_paths
from ostiary_auth.services import LOCAL_MAX_STALENESS, Services, ServiceSecrets
from ostiary_chassis.app import new_app
from ostiary_chassis.metrics import Metrics
from ostiary_chassis.openapi import document_paths
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.sql import storage_handlers


def create_app(config: AuthConfig, service_secrets: ServiceSecrets) -> FastAPI:
    """Return the application. `startup.prepare` returns the secrets."""
    services = Services(config, service_secrets)
    metrics = Metrics()
    verifier = _local_verifier(services, metrics)
    auth = Auth(verifier)

    async def can_decide() -> str:
        return verifier.unready_reason

    app = new_app(
        title="Ostiary auth service",
        version=version("ostiary-auth"),
        lifespan=lambda _app: _running(services),
        ready_checks={"database": services.database.unready_reason, "verifier": can_decide},
        metrics=metrics,
        exception_handlers={**EXCEPTION_HANDLERS, **auth.exception_handlers, **storage_handlers()},
    )
    app.state.on_stop = services.stop
    # Services that end at the same time sign off here.
    app.state.is_needed = services.verifiers.has_others
    dependencies = Dependencies(auth, services.store, TrustedProxies(config.trusted_proxies), services.clock)
    # `include_router` would build each route again.
    app.router.routes[:0] = _routes(services, dependencies)
    document_paths(app, oauth_openapi.PATHS, oauth_openapi.SECURITY_SCHEMES)
    if config.cookie_names:
        document_paths(app, session_paths(), {})
    auth.document(app)
    return app


def _local_verifier(services: Services, metrics: Metrics) -> Verifier:
    config = VerifierConfig(
        issuer=services.config.issuer,
        audience=services.config.audience,
        key_source=services.local_keys.public,
        revocation_source=services.feed.local,
    )
    return Verifier(
        config,
        max_staleness=LOCAL_MAX_STALENESS,
        observer=PrometheusObserver(metrics.registry),
        clock=lambda: services.clock.now().timestamp(),
    )


@asynccontextmanager
async def _running(services: Services) -> AsyncIterator[None]:
    """Run the background tasks; before, load the keys and the revocation log."""
    # Read now, as the first request that needs them would hold up the others.
    password_policy.common()
    emails.look_alikes()
    background = Background(services)
    await background.follow_time()
    await background.follow_keys()
    await services.begin_following()
    # A new log has new keys.
    await background.follow_keys()
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


def _routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:
    """Return all routes. They are matched in order, so the most frequent ones come first."""
    cookies = BrowserCookies.of(services.config)
    return [
        *feed_routes(services, dependencies),
        *exchange_routes(services, dependencies),
        *oauth_routes(services, dependencies),
        *session_routes(services, dependencies, cookies),
        *(browser_routes(services, dependencies, cookies) if cookies else ()),
        *account_routes(services, dependencies, cookies),
        *jwks_routes(services),
        *metadata_routes(services),
        *user_admin_routes(services, dependencies),
        *client_admin_routes(services, dependencies),
        *key_admin_routes(services, dependencies),
        *revocation_admin_routes(services, dependencies),
        *audit_admin_routes(services, dependencies),
        *events_routes(services, dependencies),
    ]
