"""The parts of the service, put together: what both the HTTP application and the command line work with."""

import asyncio
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ostiary.feed import SCOPE as FEED_SCOPE
from ostiary.feed import Kind
from ostiary_auth.config import MAX_ACCESS_TOKEN_TTL, AuthConfig
from ostiary_auth.domain.accounts.device_tokens import DeviceTokens
from ostiary_auth.domain.accounts.password_hashing import PasswordHasher
from ostiary_auth.domain.accounts.service import Accounts
from ostiary_auth.domain.audit.log import Journal, LoggedRevocation
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.keys.rotation import KeyPolicy, SigningKeys
from ostiary_auth.domain.keys.vault import CannotBeOpened, Vault, load_vault, new_kek
from ostiary_auth.domain.oauth.access_tokens import AccessTokens, TokenPolicy
from ostiary_auth.domain.oauth.authorization_server import OAuth
from ostiary_auth.domain.oauth.clients import VERIFIERS_CLIENT_ID, Client, Clients
from ostiary_auth.domain.revocation.feed import RevocationLog
from ostiary_auth.domain.revocation.security_events import SecurityEvents
from ostiary_auth.domain.revocation.verifiers import Verifiers
from ostiary_auth.domain.sessions.service import SessionLimits, Sessions
from ostiary_auth.local_keys import OwnKeys
from ostiary_auth.storage.store import AuthStore, AuthTransaction
from ostiary_chassis.settings import ConfigError, create_secret, read_secret, require_writable
from ostiary_chassis.sql import Database

_MIGRATIONS = Path(__file__).parent / "storage" / "migrations"

#: The names and the length of the service's own secrets: keys for HMAC-SHA256 (RFC 2104 section 3).
_OWN_SECRETS = frozenset({"audit", "device"})
SECRET_BYTES = 32

#: A key is public for two life-times of the JWKS before it signs: one in a cache on the way, one in the verifier's.
PUBLISHED_FOR_MAX_AGES = 2

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
REVOKE_PATH = "/oauth/revoke"
INTROSPECT_PATH = "/oauth/introspect"
FEED_PATH = "/feed"

#: Seconds by which this service's own verifier may be behind the log: less than people wait at most, so that a replica
#: that has died does not hold them up to the end.
OWN_MAX_STALENESS = 15.0

#: Characters of its secret at least.
MIN_FEED_SECRET_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class OwnSecrets:
    """The service's own secrets, besides its signing keys; made once, and stored sealed."""

    audit_key: bytes = field(repr=False)
    device_key: bytes = field(repr=False)


def usable_cores() -> int:
    """Return the cores that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Services:
    """Everything the service can do. It has no keys to sign with until `own_keys` are given some."""

    def __init__(self, config: AuthConfig, own: OwnSecrets) -> None:
        """Put the parts together; nothing is connected yet. `own` is what `prepare` returned."""
        self.config = config
        self.database = Database(config.database())
        self.store = AuthStore(self.database, AuthTransaction)
        cores = usable_cores()
        self.hasher = PasswordHasher(cores)
        self.own_keys = OwnKeys()
        # Not what is set now: tokens from before may live longer, and other replicas' too.
        token_lifetime = timedelta(seconds=MAX_ACCESS_TOKEN_TTL)
        self.journal = Journal(own.audit_key, token_lifetime, self._on_revoked)
        self.keys = SigningKeys(
            self.store,
            self.journal,
            KeyPolicy(
                bits=config.rsa_bits,
                period=timedelta(seconds=config.key_rotation_period),
                published_for=timedelta(seconds=PUBLISHED_FOR_MAX_AGES * config.jwks_max_age),
                token_lifetime=token_lifetime,
            ),
            lambda: open_vault(config),
        )
        limits = SessionLimits(
            idle=timedelta(seconds=config.session_idle_ttl), absolute=timedelta(seconds=config.session_max_ttl)
        )
        self.sessions = Sessions(self.store, self.journal, limits)
        self.accounts = Accounts(
            self.store,
            self.journal,
            self.sessions,
            self.hasher,
            DeviceTokens(own.device_key),
            min_password_characters=config.min_password_length,
        )
        self.clients = Clients(self.store, self.journal, frozenset({config.issuer, f"{config.issuer}{TOKEN_PATH}"}))
        policy = TokenPolicy(config.issuer, config.audience, config.access_token_ttl)
        self.tokens = AccessTokens(policy, self.own_keys.ring, cores)
        self.oauth = OAuth(self.store, self.journal, self.sessions, self.tokens)
        self.log = RevocationLog(self.store, config.issuer, self.own_keys.ring)
        self.log.listen(self._on_logged)
        self.own_keys.on_change = self.log.wake
        self.verifiers = Verifiers(self.store, self.log, self.database.publish, f"auth-{secrets.token_hex(8)}")
        self.events = SecurityEvents(self.store, self.log, self.own_keys.ring, config.issuer)
        #: Told when something has been revoked, and when a key has been.
        self.revoked, self.key_revoked = asyncio.Event(), asyncio.Event()

    def _on_revoked(self) -> None:
        # Whoever comes next gets a token from after it.
        self.clients.forget()
        self.revoked.set()

    def _on_logged(self, logged: LoggedRevocation) -> None:
        match logged.kind:
            case Kind.KEY:
                self.key_revoked.set()
            case Kind.CLIENT:
                self.clients.forget(logged.target)
            case Kind.ALL:
                self.clients.forget()

    async def follow_log(self) -> None:
        """Know what has been revoked, for this process's own verifier."""
        await self.log.follow(lambda: self.verifiers.heard_of_own(int(OWN_MAX_STALENESS * 1000)))

    def stop(self) -> None:
        """Answer whoever waits: the service is about to end."""
        self.log.release()
        self.verifiers.release()

    async def close(self) -> None:
        """Close connections and end threads."""
        await self.verifiers.close()
        await self.log.close()
        self.tokens.close()
        self.hasher.close()
        await self.database.close()


async def prepare(config: AuthConfig) -> OwnSecrets:
    """Migrate the database, and make the first secrets and signing keys, if that has not been done.

    Raises ConfigError.
    """
    if config.kek_file is None or config.database_url is None:
        require_writable(config.data_dir, "OSTIARY_DATA_DIR")
    database = Database(config.database())
    try:
        await database.migrate(_MIGRATIONS, "auth")
        own = await _make_own_secrets(config, AuthStore(database, AuthTransaction))
    finally:
        await database.close()
    services = Services(config, own)
    try:
        await services.keys.advance(Context(datetime.now(UTC), SYSTEM))
        # That they can be opened is better known now than at the first login.
        await services.keys.load()
        await _provide_verifiers_client(config, services.clients)
    except CannotBeOpened:
        raise _wrong_kek(config) from None
    finally:
        await services.close()
    return own


async def open_prepared(config: AuthConfig) -> OwnSecrets:
    """Return what `prepare` returned when the service was started, and make nothing. Raises ConfigError."""
    database = Database(config.database())
    try:
        await database.require_migrated(_MIGRATIONS, "auth")
        async with AuthStore(database, AuthTransaction).read() as transaction:
            sealed = await transaction.keys.secrets()
    finally:
        await database.close()
    return _unseal(config, open_vault(config), sealed)


async def _provide_verifiers_client(config: AuthConfig, clients: Clients) -> None:
    """Register the client of the stack's own verifiers with the secret in their file. Raises ConfigError."""
    path, name = config.feed_secret_path, "OSTIARY_FEED_SECRET_FILE"
    try:
        create_secret(path, secrets.token_hex(SECRET_BYTES))
    except OSError as error:
        raise ConfigError(f"{name}: cannot write {path}: {error.strerror}") from None
    secret = read_secret(path, name)
    if len(secret) < MIN_FEED_SECRET_CHARACTERS:
        raise ConfigError(f"{name}: the secret in {path} has less than {MIN_FEED_SECRET_CHARACTERS} characters")
    client = Client(
        id=VERIFIERS_CLIENT_ID,
        name="This stack's verifiers",
        grants=("client_credentials",),
        scopes=(FEED_SCOPE,),
        audiences=(config.audience,),
    )
    await clients.provide(client, secret, Context(datetime.now(UTC), SYSTEM))


async def _make_own_secrets(config: AuthConfig, store: AuthStore) -> OwnSecrets:
    async with store.write() as transaction:
        await transaction.lock("own-secrets")
        sealed = await transaction.keys.secrets()
        # A new key-encryption key is of use only while nothing is sealed with another.
        vault = open_vault(config, may_create=not sealed and not await transaction.keys.all())
        for name in _OWN_SECRETS - sealed.keys():
            sealed[name] = vault.seal(secrets.token_bytes(SECRET_BYTES), name)
            await transaction.keys.put_secret(name, sealed[name])
    return _unseal(config, vault, sealed)


def _unseal(config: AuthConfig, vault: Vault, sealed: Mapping[str, bytes]) -> OwnSecrets:
    try:
        audit, device = (vault.open(sealed[name], name) for name in ("audit", "device"))
    except CannotBeOpened:
        raise _wrong_kek(config) from None
    return OwnSecrets(audit, device)


def open_vault(config: AuthConfig, *, may_create: bool = False) -> Vault:
    """Return the vault of the key-encryption keys in their file. Raises ConfigError."""
    try:
        if may_create:
            create_secret(config.kek_path, new_kek())
        return load_vault(config.kek_path)
    except ValueError as error:
        raise ConfigError(f"OSTIARY_AUTH_KEK_FILE: {config.kek_path} {error}") from None
    except OSError as error:
        raise ConfigError(f"OSTIARY_AUTH_KEK_FILE: cannot use {config.kek_path}: {error.strerror}") from None


def _wrong_kek(config: AuthConfig) -> ConfigError:
    return ConfigError(f"OSTIARY_AUTH_KEK_FILE: {config.kek_path} does not open the keys in the database")
