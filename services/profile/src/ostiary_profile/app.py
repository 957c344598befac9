"""The application of the profile service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from ostiary import Verifier
from ostiary.fastapi import Auth
from ostiary.prometheus import PrometheusObserver
from ostiary_chassis.app import new_app
from ostiary_chassis.metrics import Metrics
from ostiary_chassis.settings import require_writable
from ostiary_chassis.sql import Database, SqlStore, storage_handlers
from ostiary_profile.config import ProfileConfig
from ostiary_profile.domain import ProfileError, Profiles
from ostiary_profile.problems import on_profile_error
from ostiary_profile.routes import profile_routes
from ostiary_profile.storage.store import ProfileTransaction

_MIGRATIONS = Path(__file__).parent / "storage" / "migrations"


async def prepare(config: ProfileConfig) -> None:
    """Migrate the database if necessary. Raises ConfigError."""
    if config.database_url is None:
        require_writable(config.data_dir, "OSTIARY_DATA_DIR")
    database = Database(config.database())
    try:
        await database.migrate(_MIGRATIONS)
    finally:
        await database.close()


def create_app(config: ProfileConfig, verifier: Verifier | None = None) -> FastAPI:
    """Return the application; call `prepare` first. `verifier` replaces the configured one in tests."""
    database = Database(config.database())
    metrics = Metrics()
    verifier = verifier or Verifier(
        config.issuer_config(), max_staleness=config.max_staleness, observer=PrometheusObserver(metrics.registry)
    )
    auth = Auth(verifier)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            async with verifier:
                yield
        finally:
            await database.close()

    async def can_decide() -> str:
        return verifier.unready_reason

    app = new_app(
        title="Ostiary profile service",
        version=version("ostiary-profile"),
        lifespan=lifespan,
        ready_checks={"database": database.unready_reason, "verifier": can_decide},
        metrics=metrics,
        exception_handlers={ProfileError: on_profile_error, **auth.exception_handlers, **storage_handlers()},
    )
    app.include_router(profile_routes(Profiles(SqlStore(database, ProfileTransaction)), auth))
    auth.document(app)
    return app
