"""The auth service as an application: its parts, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from ostiary import Verifier, VerifierConfig
from ostiary.fastapi import Auth
from ostiary.prometheus import PrometheusObserver
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts import Accounts
from ostiary_auth.domain.errors import AuthError
from ostiary_auth.domain.keys import KeysCannotBeOpened, create_kek, load_kek, load_key_ring
from ostiary_auth.domain.passwords import PasswordHasher
from ostiary_auth.domain.sessions import SessionLimits, Sessions
from ostiary_auth.domain.tokens import TokenPolicy
from ostiary_auth.own_keys import OwnKeys
from ostiary_auth.problems import on_auth_error
from ostiary_auth.routes.accounts import AccountServices, account_routes
from ostiary_auth.routes.discovery import discovery_routes
from ostiary_auth.storage.store import SqlTransaction
from ostiary_chassis.app import new_app
from ostiary_chassis.settings import ConfigError, require_writable
from ostiary_chassis.sql import Database, SqlStore, storage_handlers

_MIGRATIONS = Path(__file__).parent / "storage" / "migrations"


async def prepare(config: AuthConfig) -> None:
    """Migrate the database and make the first signing key, if that has not been done. Raises ConfigError."""
    if config.kek_file is None or config.database_url is None:
        require_writable(config.data_dir, "OSTIARY_DATA_DIR")
    database = Database(config.database())
    try:
        await database.migrate(_MIGRATIONS, "auth")
        store = SqlStore(database, SqlTransaction)
        async with store.read() as transaction:
            may_create = not await transaction.signing_keys()
        await load_key_ring(store, _kek(config, may_create=may_create), datetime.now(UTC))
    except KeysCannotBeOpened:
        raise ConfigError(
            f"OSTIARY_AUTH_KEK_FILE: {config.kek_path} does not open the signing keys in the database"
        ) from None
    finally:
        await database.close()


def create_app(config: AuthConfig) -> FastAPI:
    """Return the application. Its storage must have been prepared."""
    database = Database(config.database())
    store = SqlStore(database, SqlTransaction)
    hasher = PasswordHasher()
    keys = OwnKeys()
    own = VerifierConfig(issuer=config.issuer, audience=config.audience, key_source=keys.public)
    registry = CollectorRegistry()
    auth = Auth(Verifier(own, observer=PrometheusObserver(registry)))
    limits = SessionLimits(
        idle=timedelta(seconds=config.session_idle_ttl), absolute=timedelta(seconds=config.session_max_ttl)
    )
    services = AccountServices(
        accounts=Accounts(store, hasher),
        sessions=Sessions(store, limits),
        policy=TokenPolicy(config.issuer, config.audience, config.access_token_ttl),
        key_ring=keys.ring,
        auth=auth,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keys.use(await load_key_ring(store, _kek(config), datetime.now(UTC)))
        try:
            yield
        finally:
            hasher.close()
            await database.close()

    app = new_app(
        title="Ostiary auth service",
        version=version("ostiary-auth"),
        lifespan=lifespan,
        ready_checks={"database": database.ping},
        registry=registry,
        exception_handlers={AuthError: on_auth_error, **auth.exception_handlers, **storage_handlers()},
    )
    app.include_router(account_routes(services))
    app.include_router(discovery_routes(config.issuer, keys.ring))
    auth.document(app)
    return app


def _kek(config: AuthConfig, *, may_create: bool = False) -> bytes:
    """Return the key-encryption key. A new one is of use only while nothing is sealed with another."""
    try:
        if may_create:
            create_kek(config.kek_path)
        return load_kek(config.kek_path)
    except ValueError as error:
        raise ConfigError(f"OSTIARY_AUTH_KEK_FILE: {config.kek_path} {error}") from None
    except OSError as error:
        raise ConfigError(f"OSTIARY_AUTH_KEK_FILE: cannot use {config.kek_path}: {error.strerror}") from None
