"""Start-up: migrating the database, and creating the service's secrets and first keys."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from ostiary.feed import SCOPE as FEED_SCOPE
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.errors import TokenTooLarge
from ostiary_auth.domain.keys.vault import UnsealError, Vault
from ostiary_auth.domain.oauth.clients import Clients
from ostiary_auth.domain.oauth.model import EXCHANGE_SCOPE, Client
from ostiary_auth.kek_file import open_vault, wrong_kek
from ostiary_auth.services import Services, ServiceSecrets, check_token_size
from ostiary_auth.storage.store import AuthStore, AuthTransaction
from ostiary_auth.system_clock import SystemClock
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID
from ostiary_chassis.settings import ConfigError, create_secret, read_secret, require_writable
from ostiary_chassis.sql import Database

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"

#: The names and the length of the service's secrets: keys for HMAC-SHA256 (RFC 2104 section 3).
_SECRET_NAMES = frozenset({"audit", "device"})
SECRET_BYTES = 32

#: Minimum length of the secrets of this deployment's own clients.
MIN_CLIENT_SECRET_CHARACTERS = 32


async def prepare(config: AuthConfig) -> ServiceSecrets:
    """Migrate the database, and create secrets and signing keys where missing. Raises ConfigError."""
    require_data_dir(config)
    _check_token_size(config)
    database = Database(config.database())
    try:
        await database.migrate(MIGRATIONS)
        with database.naming_the_setting():
            service_secrets = await _make_service_secrets(config, AuthStore(database, AuthTransaction))
    finally:
        await database.close()
    services = Services(config, service_secrets)
    try:
        with services.database.naming_the_setting():
            await services.follow_time()
            await services.keys.advance(Context(services.clock.now(), SYSTEM))
            # Fail now rather than at the first login if they cannot be decrypted.
            await services.keys.load()
            await _provide_clients(config, services.clients, Context(services.clock.now(), SYSTEM))
    except UnsealError:
        raise wrong_kek(config) from None
    finally:
        await services.close()
    return service_secrets


def require_data_dir(config: AuthConfig) -> None:
    """Check that the data directory can be written to, if anything is kept there. Raises ConfigError."""
    if config.kek_file is None or config.database_url is None:
        require_writable(config.data_dir, "OSTIARY_DATA_DIR")


def _check_token_size(config: AuthConfig) -> None:
    """Check that browsers can keep the tokens of ordinary users. Raises ConfigError."""
    try:
        check_token_size(config, ("user",), SystemClock().now())
    except TokenTooLarge as error:
        raise ConfigError(f"OSTIARY_ISSUER, OSTIARY_AUDIENCE: too long: {error.fault}") from None


async def open_prepared(config: AuthConfig) -> ServiceSecrets:
    """Return the secrets that `prepare` has created. Raises ConfigError."""
    database = Database(config.database())
    try:
        await database.require_migrated(MIGRATIONS)
        with database.naming_the_setting():
            async with AuthStore(database, AuthTransaction).read() as transaction:
                sealed = await transaction.keys.secrets()
    finally:
        await database.close()
    return unseal(config, open_vault(config), sealed)


async def _provide_clients(config: AuthConfig, clients: Clients, context: Context) -> None:
    """Register the clients that are part of every deployment, with the secrets in their files. Raises ConfigError."""
    verifiers = Client(
        id=VERIFIERS_CLIENT_ID,
        name="Verifiers of this deployment",
        grants=("client_credentials",),
        scopes=(FEED_SCOPE,),
        audiences=(config.audience,),
    )
    # It gets no tokens of its own, and needs none.
    gateways = Client(
        id=GATEWAYS_CLIENT_ID, name="Gateways of this deployment", grants=(), scopes=(EXCHANGE_SCOPE,), audiences=()
    )
    for client, path, setting in (
        (verifiers, config.feed_secret_path, "OSTIARY_FEED_SECRET_FILE"),
        (gateways, config.gateway_secret_path, "OSTIARY_GATEWAY_SECRET_FILE"),
    ):
        await clients.ensure(client, _client_secret(path, setting), context)


def _client_secret(path: Path, setting: str) -> str:
    """Return the secret in a file, which is created if it is missing. Raises ConfigError."""
    try:
        create_secret(path, secrets.token_hex(SECRET_BYTES))
    except OSError as error:
        raise ConfigError(f"{setting}: cannot write {path}: {error.strerror}") from None
    secret = read_secret(path, setting)
    if len(secret) < MIN_CLIENT_SECRET_CHARACTERS:
        raise ConfigError(
            f"{setting}: the secret in {path} must have at least {MIN_CLIENT_SECRET_CHARACTERS} characters"
        )
    return secret


async def _make_service_secrets(config: AuthConfig, store: AuthStore) -> ServiceSecrets:
    async with store.write() as transaction:
        await transaction.lock("own-secrets")
        sealed = await transaction.keys.secrets()
        # A new key-encryption key is useful only while nothing is encrypted with another one.
        vault = open_vault(config, may_create=not sealed and not await transaction.keys.all())
        for name in _SECRET_NAMES - sealed.keys():
            sealed[name] = vault.seal(secrets.token_bytes(SECRET_BYTES), name)
            await transaction.keys.put_secret(name, sealed[name])
    return unseal(config, vault, sealed)


def unseal(config: AuthConfig, vault: Vault, sealed: Mapping[str, bytes]) -> ServiceSecrets:
    """Open the service's own secrets. Raises ConfigError."""
    try:
        audit, device = (vault.open(sealed[name], name) for name in ("audit", "device"))
    except UnsealError:
        raise wrong_kek(config) from None
    return ServiceSecrets(audit, device)
