"""Registering, changing and authenticating clients."""

import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from ostiary.feed import Kind
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event, Facts
from ostiary_auth.domain.context import Context, client_actor
from ostiary_auth.domain.errors import ClientNotFound, InvalidClient, InvalidClientSettings
from ostiary_auth.domain.oauth import client_assertion
from ostiary_auth.domain.oauth.client_settings import CLIENT_ID, check_settings
from ostiary_auth.domain.oauth.model import FIRST_PARTY, FIRST_PARTY_CLIENT_ID, Client, Credentials
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.model import RevokedNumbers

_log = structlog.stdlib.get_logger("clients")

#: Bytes of randomness in a client secret: too many to be guessed, so a fast hash is enough and no throttle is needed.
SECRET_BYTES = 32

#: How long a rotated secret stays valid, so that a rotation needs no downtime.
OLD_SECRET_GRACE = timedelta(hours=24)

#: How long a client is cached, so that a token needs no query; other replicas learn of a change within that time.
CACHED_FOR = timedelta(seconds=1)


class Clients:
    """Registers, changes and authenticates clients."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        revocations: RevocationLog,
        *,
        assertion_audiences: frozenset[str],
        reserved_ids: frozenset[str],
    ) -> None:
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self._assertion_audiences = assertion_audiences
        self._reserved_ids = reserved_ids
        self._cached: dict[str, tuple[Client, datetime]] = {}

    async def authenticate(self, credentials: Credentials, context: Context) -> Client:
        """Return the client that makes a request. Raises InvalidClient."""
        client_id = credentials.client_id
        if credentials.assertion is not None:
            claimed = client_assertion.claimed_client(credentials.assertion)
            if client_id not in {None, claimed}:
                raise InvalidClient("The assertion's subject is not the client in 'client_id'.")
            client_id = claimed
        if client_id is None:
            raise InvalidClient("Missing client credentials.")
        client = FIRST_PARTY if client_id == FIRST_PARTY_CLIENT_ID else await self._find(client_id, context.now)
        if client is None or client.disabled_at is not None:
            raise InvalidClient
        if not await self._proves(client, credentials, context.now):
            # Not in the audit log: entries are permanent, and failing costs the caller nothing.
            _log.warning("client authentication failed", client_id=client.id, source=context.source)
            raise InvalidClient
        return client

    async def create(self, client: Client, context: Context) -> tuple[Client, str | None]:
        """Register a client; return it with its secret, which is not stored. A client with keys has none.

        Raises InvalidClientSettings or ClientTaken.
        """
        check_settings(client, self._reserved_ids)
        secret = secrets.token_urlsafe(SECRET_BYTES) if client.jwks is None else None
        new = replace(
            client,
            # Without duplicates, in the order given: the first audience is the default.
            grants=tuple(dict.fromkeys(client.grants)),
            scopes=tuple(dict.fromkeys(client.scopes)),
            audiences=tuple(dict.fromkeys(client.audiences)),
            secret_hash=_hash(secret) if secret else None,
            created_at=context.now,
        )
        async with self._store.queue() as transaction:
            await transaction.clients.add(new)
            subject = client_actor(new.id)
            await self._audit.record(transaction, context, Event.CLIENT_CREATED, subject=subject, facts=_facts(new))
        return new, secret

    async def ensure(self, client: Client, secret: str, context: Context) -> None:
        """Register a client with a secret that is kept elsewhere, or update its secret."""
        provided = replace(client, secret_hash=_hash(secret), created_at=context.now)
        async with self._store.queue() as transaction:
            # One of several replicas that start at once inserts it.
            await transaction.lock("provided-clients")
            known = await transaction.clients.lock(client.id)
            if known is None:
                await transaction.clients.add(provided)
                await self._audit.record(
                    transaction, context, Event.CLIENT_CREATED, subject=client_actor(client.id), facts=_facts(client)
                )
            elif known.secret_hash != provided.secret_hash:
                # The old secret stays valid for a time; settings changed by an operator are kept.
                rotated = _with_secret(known, provided.secret_hash, context.now)
                await transaction.clients.replace(rotated)
                subject = client_actor(client.id)
                await self._audit.record(transaction, context, Event.CLIENT_SECRET_ROTATED, subject=subject)

    async def rotate_secret(self, client_id: str, context: Context) -> str:
        """Return a new secret for a client; the old one stays valid for `OLD_SECRET_GRACE`.

        Raises ClientNotFound, or InvalidClientSettings for a client with keys.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        async with self._change(client_id, context, Event.CLIENT_SECRET_ROTATED) as (transaction, client):
            if client.secret_hash is None:
                raise InvalidClientSettings("This client authenticates with keys and has no secret.")
            await transaction.clients.replace(_with_secret(client, _hash(secret), context.now))
        return secret

    async def disable(self, client_id: str, context: Context) -> RevokedNumbers:
        """Disable a client and revoke its tokens. Raises ClientNotFound."""
        async with self._change(client_id, context, Event.CLIENT_DISABLED) as (transaction, client):
            await transaction.clients.replace(replace(client, disabled_at=client.disabled_at or context.now))
            return await self._revocations.revoke(transaction, context, Kind.CLIENT, client_id)

    async def enable(self, client_id: str, context: Context) -> None:
        """Enable a disabled client. Raises ClientNotFound."""
        async with self._change(client_id, context, Event.CLIENT_ENABLED) as (transaction, client):
            await transaction.clients.replace(replace(client, disabled_at=None))

    async def delete(self, client_id: str, context: Context) -> RevokedNumbers:
        """Delete a client and revoke its tokens. Raises ClientNotFound."""
        async with self._change(client_id, context, Event.CLIENT_DELETED) as (transaction, _client):
            revoked = await self._revocations.revoke(transaction, context, Kind.CLIENT, client_id)
            await transaction.clients.delete(client_id)
        return revoked

    async def get(self, client_id: str) -> Client:
        """Return a client. Raises ClientNotFound."""
        async with self._store.read() as transaction:
            client = await transaction.clients.get(client_id)
        if client is None:
            raise ClientNotFound
        return client

    def invalidate(self, client_id: str | None = None) -> None:
        """Drop one client from the cache, or all: it has changed, maybe on another replica."""
        if client_id is None:
            self._cached.clear()
        else:
            self._cached.pop(client_id, None)

    async def page(self, after: str | None, limit: int) -> list[Client]:
        """Return clients with ids over `after`, in order."""
        async with self._store.read() as transaction:
            return await transaction.clients.page(after, limit)

    async def _find(self, client_id: str, now: datetime) -> Client | None:
        cached = self._cached.get(client_id)
        if cached is not None and cached[1] <= now < cached[1] + CACHED_FOR:  # the clock may be put back
            return cached[0]
        if CLIENT_ID.match(client_id) is None:
            return None
        async with self._store.read() as transaction:
            client = await transaction.clients.get(client_id)
        if client is not None:
            self._cached[client_id] = (client, now)
        return client

    async def _proves(self, client: Client, credentials: Credentials, now: datetime) -> bool:
        """Return whether the credentials are the client's. A public client must not present any."""
        if credentials.assertion is not None:
            return client.jwks is not None and await self._check_assertion(client, credentials.assertion, now)
        if credentials.secret is not None:
            return _has_secret(client, credentials.secret, now)
        return client.is_public

    async def _check_assertion(self, client: Client, assertion: str, now: datetime) -> bool:
        usable = client_assertion.verify(client, assertion, self._assertion_audiences, now)
        if usable is None:
            return False
        async with self._store.write() as transaction:
            return await transaction.clients.use_assertion(usable.hash, usable.expires_at)

    @asynccontextmanager
    async def _change(
        self, client_id: str, context: Context, event: Event
    ) -> AsyncIterator[tuple[Transaction, Client]]:
        async with self._store.queue() as transaction:
            client = await transaction.clients.lock(client_id)
            if client is None:
                raise ClientNotFound
            yield transaction, client
            await self._audit.record(transaction, context, event, subject=client_actor(client_id))
        self._cached.pop(client_id, None)


def _with_secret(client: Client, secret_hash: bytes | None, now: datetime) -> Client:
    """Return a client with a new secret; its previous one stays valid for `OLD_SECRET_GRACE`."""
    return replace(
        client,
        secret_hash=secret_hash,
        old_secret_hash=client.secret_hash,
        old_secret_until=now + OLD_SECRET_GRACE,
    )


def _facts(client: Client) -> Facts:
    return {"scopes": list(client.scopes), "grants": list(client.grants), "audiences": list(client.audiences)}


def _has_secret(client: Client, secret: str, now: datetime) -> bool:
    hashed = _hash(secret)
    current = hmac.compare_digest(hashed, client.secret_hash or b"")
    old_counts = client.old_secret_until is not None and now < client.old_secret_until
    old = hmac.compare_digest(hashed, client.old_secret_hash or b"") and old_counts
    return current or old


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
