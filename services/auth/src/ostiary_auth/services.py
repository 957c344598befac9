"""The parts of the service, wired together. The HTTP application and the command line both work on them."""

import asyncio
import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ostiary.browser import MAX_COOKIE_BYTES, set_cookie
from ostiary.feed import Kind
from ostiary_auth import receipt_file
from ostiary_auth.config import MAX_ACCESS_TOKEN_TTL, AuthConfig
from ostiary_auth.domain.accounts.device_tokens import DeviceTokens
from ostiary_auth.domain.accounts.model import AccountRules
from ostiary_auth.domain.accounts.password_hashing import PasswordHasher
from ostiary_auth.domain.accounts.service import Accounts
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.clock import Clock, SettledTime, SharedClock
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.database_time import DatabaseTime
from ostiary_auth.domain.errors import LogReplaced, TokenTooLarge
from ostiary_auth.domain.keys.rotation import KeyPolicy, SigningKeys
from ostiary_auth.domain.oauth.access_tokens import AccessTokens, TokenPolicy, characters_of
from ostiary_auth.domain.oauth.authorization_server import AuthorizationServer
from ostiary_auth.domain.oauth.clients import Clients
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.recovery import Recovery
from ostiary_auth.domain.revocation.feed import RevocationFeed
from ostiary_auth.domain.revocation.log import EXPIRY_MARGIN, RevocationLog
from ostiary_auth.domain.revocation.receipts import Receipts
from ostiary_auth.domain.revocation.security_events import SecurityEvents
from ostiary_auth.domain.revocation.verifiers import Verifiers
from ostiary_auth.domain.sessions.exchange import Exchange
from ostiary_auth.domain.sessions.model import SessionLimits
from ostiary_auth.domain.sessions.service import Sessions
from ostiary_auth.kek_file import open_vault
from ostiary_auth.local_keys import LocalKeyRing
from ostiary_auth.paths import TOKEN_PATH
from ostiary_auth.storage.store import AuthStore, AuthTransaction
from ostiary_auth.system_clock import SystemClock
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID
from ostiary_chassis.sql import Database

#: A key is published for two lifetimes of the JWKS before it signs: one in a cache on the way, one in the verifier's.
PUBLISHED_FOR_MAX_AGES = 2

#: Maximum staleness of this service's own verifier, in seconds: less than the longest `Prefer: wait`, so that a replica
#: that has died does not delay the response until its end.
LOCAL_MAX_STALENESS = 15.0


@dataclass(frozen=True, slots=True)
class ServiceSecrets:
    """The service's secrets besides its signing keys; created once, and stored encrypted."""

    audit_key: bytes = field(repr=False)
    device_key: bytes = field(repr=False)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_token_size(config: AuthConfig, roles: tuple[str, ...], now: datetime) -> None:
    """Raise TokenTooLarge if a browser could not keep the access tokens of a user with these roles (RFC 6265)."""
    if config.cookie_names is None:
        return
    names = config.cookie_names
    without_token = set_cookie(names.token, b"", MAX_ACCESS_TOKEN_TTL, is_secure=names.is_secure)
    most = MAX_COOKIE_BYTES - len(without_token)
    characters = characters_of(_token_policy(config), roles, config.rsa_bits, now)
    if characters > most:
        raise TokenTooLarge(characters, most)


def _token_policy(config: AuthConfig) -> TokenPolicy:
    return TokenPolicy(config.issuer, config.audience, config.access_token_ttl)


class Services:
    """All parts. `local_keys` have to be loaded before tokens can be signed."""

    def __init__(self, config: AuthConfig, service_secrets: ServiceSecrets, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock = SharedClock(clock or SystemClock())
        self.database = Database(config.database())
        self.store = AuthStore(self.database, AuthTransaction)
        cores = usable_cores()
        self.hasher = PasswordHasher(cores)
        self.local_keys = LocalKeyRing()
        # The maximum, not the setting: older tokens and those of other replicas may have another lifetime.
        token_lifetime = timedelta(seconds=MAX_ACCESS_TOKEN_TTL)
        self.audit = AuditLog(service_secrets.audit_key)
        self.revocations = RevocationLog(self.audit, token_lifetime, self._on_revoked)
        self.database_time = DatabaseTime(self.store, self.audit, self.revocations, clock)
        #: By which rows are deleted: a revocation is kept for the life of a token that it hits, whatever errs.
        self.settled = SettledTime(clock, token_lifetime + EXPIRY_MARGIN)
        self.keys = SigningKeys(
            self.store,
            self.audit,
            self.revocations,
            KeyPolicy(
                bits=config.rsa_bits,
                period=timedelta(seconds=config.key_rotation_period),
                published_for=timedelta(seconds=PUBLISHED_FOR_MAX_AGES * config.jwks_max_age),
                token_lifetime=token_lifetime,
            ),
            lambda: open_vault(config),
        )
        self.recovery = Recovery(self.store, self.audit, self.revocations, self.keys, config.rsa_bits)
        limits = SessionLimits(
            idle=timedelta(seconds=config.session_idle_ttl), absolute=timedelta(seconds=config.session_max_ttl)
        )
        self.sessions = Sessions(self.store, self.audit, self.revocations, limits, clock)
        self.exchange = Exchange(self.store, limits.idle, clock)
        self.accounts = Accounts(
            self.store,
            self.audit,
            self.revocations,
            self.sessions,
            hasher=self.hasher,
            devices=DeviceTokens(service_secrets.device_key),
            rules=AccountRules(config.min_password_length, config.special_email_domains),
            check_token_size=lambda roles: check_token_size(config, roles, clock.now()),
        )
        self.clients = Clients(
            self.store,
            self.audit,
            self.revocations,
            assertion_audiences=frozenset({config.issuer, f"{config.issuer}{TOKEN_PATH}"}),
            reserved_ids=frozenset({FIRST_PARTY_CLIENT_ID, VERIFIERS_CLIENT_ID, GATEWAYS_CLIENT_ID}),
        )
        self.tokens = AccessTokens(_token_policy(config), self.local_keys.ring, self.local_keys.public.current, cores)
        self.oauth = AuthorizationServer(self.store, self.audit, self.revocations, self.sessions, self.tokens)
        receipts = Receipts(service_secrets.audit_key)
        self.feed = RevocationFeed(self.store, config.issuer, self.local_keys.ring, receipts, clock)
        self.feed.subscribe(self._on_logged)
        self.local_keys.on_change = self.feed.notify
        own_id = f"auth-{secrets.token_hex(8)}"
        self.verifiers = Verifiers(self.store, self.feed, self.database.publish, own_id, clock)
        self.events = SecurityEvents(self.store, self.feed, self.local_keys.ring, config.issuer, clock)
        self._receipt_path = receipt_file.path_of(self.database.address.path) if self.database.is_sqlite else None
        self._kept_receipt = ""
        #: Set when something was revoked, when a key was, and when the stored log was found to lack entries.
        self.revoked, self.key_revoked, self.log_replaced = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.feed.on_replaced = self.log_replaced.set

    def _on_revoked(self) -> None:
        # The next token has to be issued after the revocation.
        self.clients.invalidate()
        self.revoked.set()

    def _on_logged(self, kind: Kind, target: str) -> None:
        match kind:
            case Kind.KEY:
                self.key_revoked.set()
            case Kind.CLIENT:
                self.clients.invalidate(target)
            case Kind.ALL:
                self.clients.invalidate()
                # A new log begins with this: the database may be one that was restored.
                self.verifiers.forget_stored()

    async def follow_time(self) -> None:
        """Follow the database's clock."""
        await self.database_time.follow()
        self.settled.observe()

    async def follow_feed(self, max_age: float = 0.0) -> None:
        """Update this process's own verifier, by what was read of the log less than `max_age` seconds ago, or now."""
        await self.feed.refresh_local(lambda: self.verifiers.on_local_poll(int(LOCAL_MAX_STALENESS * 1000)), max_age)

    async def begin_following(self) -> None:
        """Read the revocation log for the first time. If it lacks entries that it once had, begin a new one."""
        await self.follow_feed()
        if self._receipt_path is not None:
            try:
                await self.feed.check_receipt(await asyncio.to_thread(receipt_file.load, self._receipt_path))
            except LogReplaced:
                await self.recover()
                await self.follow_feed()
            await self.keep_receipt()

    async def keep_receipt(self) -> None:
        """Store how far the log has come, where nothing else outlives a restart of everything."""
        if self._receipt_path is not None and self._kept_receipt != (receipt := self.feed.receipt):
            await asyncio.to_thread(receipt_file.store, self._receipt_path, receipt)
            self._kept_receipt = receipt

    async def recover(self) -> None:
        """Begin a new log in place of a stored one that lacks entries."""
        if (replaced := self.feed.replaced) is not None:
            await self.recovery.restart_replaced(Context(self.clock.now(), SYSTEM), replaced)
            self.feed.replaced = None

    def stop(self) -> None:
        """Answer all waiting requests: the service is shutting down."""
        self.feed.release_waiters()
        self.verifiers.release_waiters()

    async def close(self) -> None:
        await self.verifiers.close()
        await self.feed.close()
        self.tokens.close()
        self.hasher.close()
        await self.database.close()
