"""OAuth clients: programs that get tokens for themselves, or look after others' tokens (RFC 6749 section 2).

A client authenticates with a secret that we made, or with an assertion signed by a key whose public
half it registered (RFC 7523 section 2.2). People log in through the built-in client `first-party`, which
is public: it has nothing to authenticate with, and may only continue and end its own sessions.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from uuid import UUID

import jwt
import structlog

from ostiary.feed import MAX_NUMBER, Kind
from ostiary_auth.domain.audit.log import Event, Facts, Journal
from ostiary_auth.domain.context import ANONYMOUS, Context, client_actor
from ostiary_auth.domain.errors import ClientNotFound, InvalidClient, InvalidClientSettings
from ostiary_auth.domain.ports import Store, Transaction

#: `client_id` (RFC 9068 section 2.2) of people who log in at `/auth/login`.
FIRST_PARTY_CLIENT_ID = "first-party"

_log = structlog.stdlib.get_logger("clients")

#: Bytes of randomness in a client secret. Nobody guesses that, so a fast hash will do, and no throttle is needed.
SECRET_BYTES = 32

#: How long the secret before the current one is good, so that a rotation needs no outage.
OLD_SECRET_GRACE = timedelta(hours=24)

#: How long a client is remembered, so that a token costs no look-up; other replicas learn of a change within that time.
REMEMBERED_FOR = timedelta(seconds=1)

#: The client that this stack's own verifiers ask the revocation feed as.
VERIFIERS_CLIENT_ID = "ostiary-verifiers"

#: Ids that nobody can register.
RESERVED_IDS = frozenset({FIRST_PARTY_CLIENT_ID, VERIFIERS_CLIENT_ID})

#: Actors behind whom the person is that an entry of the audit log is about: whoever logs in, and their own program.
PERSONS_OWN_ACTORS = (ANONYMOUS, client_actor(FIRST_PARTY_CLIENT_ID))

#: How far ahead an assertion may expire, and how long one may be.
MAX_ASSERTION_LIFETIME = timedelta(minutes=5)
MAX_ASSERTION_CHARACTERS = 8192

#: Algorithms of assertions, and the kind of key that each takes (RFC 7518 section 3.1).
ASSERTION_ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}

MAX_NAME_CHARACTERS = 100
MAX_CLIENT_KEYS = 5
MIN_RSA_BITS = 2048

#: Grants of registered clients. (Refresh tokens come from logins, which are the first party's so far.)
GrantType = Literal["client_credentials", "refresh_token"]

# Not to be mistaken for a user's id, which would make a client's token pass for theirs (RFC 9700 section 4.15).
_CLIENT_ID = re.compile(r"[a-z][a-z0-9._-]{1,63}\Z")
# RFC 6749 section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}\Z")
_AUDIENCE = re.compile(r"[\x21-\x7e]{1,256}\Z")


@dataclass(frozen=True, slots=True)
class Client:
    """A client. It has a secret, of which the hash is stored, or public keys, or it is public."""

    id: str
    name: str
    grants: tuple[str, ...]
    scopes: tuple[str, ...]
    #: What its tokens may be meant for; the first one unless it asks for another.
    audiences: tuple[str, ...]
    secret_hash: bytes | None = field(default=None, repr=False)
    old_secret_hash: bytes | None = field(default=None, repr=False)
    old_secret_until: datetime | None = None
    jwks: Mapping[str, Any] | None = None
    disabled_at: datetime | None = None
    created_at: datetime | None = None
    #: The number of the last revocation when it was read; not stored.
    as_of: int = field(default=0, compare=False)

    @property
    def authentication(self) -> Literal["client_secret", "private_key_jwt"]:
        """How it authenticates, if it is not public."""
        return "private_key_jwt" if self.secret_hash is None else "client_secret"

    @property
    def is_public(self) -> bool:
        """Whether it cannot authenticate (RFC 6749 section 2.1)."""
        return self.secret_hash is None and self.jwks is None


#: People's own programs: a web page, a mobile application.
FIRST_PARTY = Client(
    id=FIRST_PARTY_CLIENT_ID,
    name="First-party login",
    grants=("refresh_token",),
    scopes=(),
    audiences=(),
    # It never changes, so no revocation of it comes after this.
    as_of=MAX_NUMBER,
)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a request says about the client that makes it."""

    client_id: str | None = None
    secret: str | None = None
    assertion: str | None = None


class Clients:
    """Registers and recognises clients."""

    def __init__(self, store: Store, journal: Journal, assertion_audiences: frozenset[str]) -> None:
        """Keep clients in `store`. Assertions must be meant for one of these audiences."""
        self._store = store
        self._journal = journal
        self._assertion_audiences = assertion_audiences
        self._remembered: dict[str, tuple[Client, datetime]] = {}

    async def authenticate(self, credentials: Credentials, context: Context) -> Client:
        """Return the client that makes a request. Raises InvalidClient."""
        client_id = credentials.client_id
        if credentials.assertion is not None:
            claimed = _claimed_client(credentials.assertion)
            if client_id not in {None, claimed}:
                raise InvalidClient("The assertion is about another client.")
            client_id = claimed
        if client_id is None:
            raise InvalidClient("No client was named.")
        client = FIRST_PARTY if client_id == FIRST_PARTY_CLIENT_ID else await self._find(client_id, context.now)
        if client is None or client.disabled_at is not None:
            raise InvalidClient
        if not await self._proves(client, credentials, context.now):
            # Not for the journal: it costs the caller nothing to fail, and an entry is for ever.
            _log.warning("client not authenticated", client_id=client.id, source=context.source)
            raise InvalidClient
        return client

    async def create(self, client: Client, context: Context) -> tuple[Client, str | None]:
        """Register a client, and return it with the secret that it has unless it has keys; that is shown this once.

        Raises InvalidClientSettings or ClientTaken.
        """
        _check_settings(client)
        secret = secrets.token_urlsafe(SECRET_BYTES) if client.jwks is None else None
        new = replace(
            client,
            # Each once, in the order given: the first audience is the one by default.
            grants=tuple(dict.fromkeys(client.grants)),
            scopes=tuple(dict.fromkeys(client.scopes)),
            audiences=tuple(dict.fromkeys(client.audiences)),
            secret_hash=_hash(secret) if secret else None,
            created_at=context.now,
        )
        async with self._store.write() as transaction:
            await transaction.clients.add(new)
            subject = client_actor(new.id)
            await self._journal.record(transaction, context, Event.CLIENT_CREATED, subject=subject, facts=_facts(new))
        return new, secret

    async def provide(self, client: Client, secret: str, context: Context) -> None:
        """See to it that there is a client with this secret, which somebody else keeps."""
        provided = replace(client, secret_hash=_hash(secret), created_at=context.now)
        async with self._store.write() as transaction:
            # Of several replicas that start at once, one adds it.
            await transaction.lock("provided-clients")
            known = await transaction.clients.lock(client.id)
            if known is None:
                await transaction.clients.add(provided)
                await self._journal.record(
                    transaction, context, Event.CLIENT_CREATED, subject=client_actor(client.id), facts=_facts(client)
                )
            elif known.secret_hash != provided.secret_hash:
                # Those that still have the old one go on; what an operator has changed stays as it is.
                rotated = _with_secret(known, provided.secret_hash, context.now)
                await transaction.clients.replace(rotated)
                subject = client_actor(client.id)
                await self._journal.record(transaction, context, Event.CLIENT_SECRET_ROTATED, subject=subject)

    async def rotate_secret(self, client_id: str, context: Context) -> str:
        """Give a client a new secret, and return it; the old one is good for a while.

        Raises ClientNotFound, or InvalidClientSettings for a client with a key.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        async with self._change(client_id, context, Event.CLIENT_SECRET_ROTATED) as (transaction, client):
            if client.secret_hash is None:
                raise InvalidClientSettings("This client authenticates with a key, and has no secret.")
            await transaction.clients.replace(_with_secret(client, _hash(secret), context.now))
        return secret

    async def disable(self, client_id: str, context: Context) -> None:
        """Keep a client out, and revoke its tokens. Raises ClientNotFound."""
        async with self._change(client_id, context, Event.CLIENT_DISABLED) as (transaction, client):
            await transaction.clients.replace(replace(client, disabled_at=client.disabled_at or context.now))
            await self._journal.revoke(transaction, context, Kind.CLIENT, client_id)

    async def enable(self, client_id: str, context: Context) -> None:
        """Let a disabled client in again. Raises ClientNotFound."""
        async with self._change(client_id, context, Event.CLIENT_ENABLED) as (transaction, client):
            await transaction.clients.replace(replace(client, disabled_at=None))

    async def delete(self, client_id: str, context: Context) -> None:
        """Delete a client, and revoke its tokens. Raises ClientNotFound."""
        async with self._change(client_id, context, Event.CLIENT_DELETED) as (transaction, _client):
            await self._journal.revoke(transaction, context, Kind.CLIENT, client_id)
            await transaction.clients.delete(client_id)

    async def get(self, client_id: str) -> Client:
        """Return a client. Raises ClientNotFound."""
        async with self._store.read() as transaction:
            client = await transaction.clients.get(client_id)
        if client is None:
            raise ClientNotFound
        return client

    def forget(self, client_id: str | None = None) -> None:
        """Look a client up anew, or all of them: it has changed on some replica."""
        if client_id is None:
            self._remembered.clear()
        else:
            self._remembered.pop(client_id, None)

    async def page(self, after: str | None, limit: int) -> list[Client]:
        """Return clients in the order of their ids."""
        async with self._store.read() as transaction:
            return await transaction.clients.page(after, limit)

    async def _find(self, client_id: str, now: datetime) -> Client | None:
        remembered = self._remembered.get(client_id)
        if remembered is not None and now < remembered[1] + REMEMBERED_FOR:
            return remembered[0]
        if _CLIENT_ID.match(client_id) is None:
            return None
        async with self._store.read() as transaction:
            client = await transaction.clients.get(client_id)
        if client is not None:
            self._remembered[client_id] = (client, now)
        return client

    async def _proves(self, client: Client, credentials: Credentials, now: datetime) -> bool:
        """Return whether the credentials are those of the client; a public one must not show any."""
        if credentials.assertion is not None:
            return client.jwks is not None and await self._check_assertion(client, credentials.assertion, now)
        if credentials.secret is not None:
            return _has_secret(client, credentials.secret, now)
        return client.is_public

    async def _check_assertion(self, client: Client, assertion: str, now: datetime) -> bool:
        """Check an assertion (RFC 7523 section 3), and that it is used for the first time."""
        claims = _verified_claims(client, assertion)
        if claims is None or claims["iss"] != client.id or claims["sub"] != client.id:
            return False
        # One audience, and ours: an assertion made for another server must not do here (RFC 7523bis).
        if not isinstance(claims["aud"], str) or claims["aud"] not in self._assertion_audiences:
            return False
        if type(claims["exp"]) not in {int, float} or claims["exp"] > (now + MAX_ASSERTION_LIFETIME).timestamp():
            return False
        if not isinstance(claims["jti"], str) or not claims["jti"].isprintable():
            return False
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        used = hashlib.sha256(f"{client.id}\0{claims['jti']}".encode()).digest()
        async with self._store.write() as transaction:
            return await transaction.clients.use_assertion(used, expires_at)

    @asynccontextmanager
    async def _change(
        self, client_id: str, context: Context, event: Event
    ) -> AsyncIterator[tuple[Transaction, Client]]:
        async with self._store.write() as transaction:
            client = await transaction.clients.lock(client_id)
            if client is None:
                raise ClientNotFound
            yield transaction, client
            await self._journal.record(transaction, context, event, subject=client_actor(client_id))
        self._remembered.pop(client_id, None)


def _with_secret(client: Client, secret_hash: bytes | None, now: datetime) -> Client:
    """Return a client with a new secret; the one before it is good for a while."""
    return replace(
        client,
        secret_hash=secret_hash,
        old_secret_hash=client.secret_hash,
        old_secret_until=now + OLD_SECRET_GRACE,
    )


def _facts(client: Client) -> Facts:
    return {"scopes": list(client.scopes), "grants": list(client.grants), "audiences": list(client.audiences)}


def _check_settings(client: Client) -> None:
    """Refuse a client that could not work, or that could pass for somebody else. Raises InvalidClientSettings."""
    if _CLIENT_ID.match(client.id) is None or _is_uuid(client.id) or client.id in RESERVED_IDS:
        raise InvalidClientSettings(
            "The id must be 2 to 64 of a-z, 0-9, '.', '_' and '-', begin with a letter, and not be a UUID."
        )
    if not 1 <= len(client.name) <= MAX_NAME_CHARACTERS:
        raise InvalidClientSettings(f"The name must have 1 to {MAX_NAME_CHARACTERS} characters.")
    if not client.grants or not client.audiences:
        raise InvalidClientSettings("At least one grant and one audience are needed.")
    if not set(client.grants) <= set(get_args(GrantType)):
        raise InvalidClientSettings(f"The grants are: {', '.join(get_args(GrantType))}.")
    if not all(map(_SCOPE.match, client.scopes)) or not all(map(_AUDIENCE.match, client.audiences)):
        raise InvalidClientSettings("A scope or an audience has characters that it cannot have.")
    if client.jwks is not None:
        _check_jwks(client.jwks)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _check_jwks(jwks: Mapping[str, Any]) -> None:
    keys = jwks.get("keys")
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_CLIENT_KEYS:
        raise InvalidClientSettings(f"'jwks' must have 1 to {MAX_CLIENT_KEYS} keys.")
    for key in keys:
        if not isinstance(key, dict) or any(member in key for member in ("d", "k", "p", "q")):
            raise InvalidClientSettings("'jwks' must hold public keys only.")
        try:
            public = jwt.PyJWK(key, algorithm="ES256" if key.get("kty") == "EC" else "RS256").key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            raise InvalidClientSettings("'jwks' holds a key that cannot be read.") from None
        if key.get("kty") == "EC" and key.get("crv") != "P-256":
            raise InvalidClientSettings("Elliptic curve keys must be on P-256.")
        if key.get("kty") == "RSA" and public.key_size < MIN_RSA_BITS:
            raise InvalidClientSettings(f"RSA keys must have {MIN_RSA_BITS} bits or more.")


def _has_secret(client: Client, secret: str, now: datetime) -> bool:
    hashed = _hash(secret)
    current = hmac.compare_digest(hashed, client.secret_hash or b"")
    old_counts = client.old_secret_until is not None and now < client.old_secret_until
    old = hmac.compare_digest(hashed, client.old_secret_hash or b"") and old_counts
    return current or old


def _claimed_client(assertion: str) -> str:
    """Return who an assertion says it is about; nothing of it has been checked yet. Raises InvalidClient."""
    try:
        if len(assertion) > MAX_ASSERTION_CHARACTERS:
            raise InvalidClient
        subject = jwt.decode(assertion, options={"verify_signature": False}).get("sub")
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidClient("The assertion is not a JWT.") from None
    if not isinstance(subject, str):
        raise InvalidClient("The assertion has no subject.")
    return subject


def _verified_claims(client: Client, assertion: str) -> dict[str, Any] | None:
    """Return an assertion's claims if one of the client's keys signed it and it has not expired."""
    header = jwt.get_unverified_header(assertion)
    algorithm, kid = header.get("alg"), header.get("kid")
    kind = ASSERTION_ALGORITHMS.get(str(algorithm))
    for key in (client.jwks or {})["keys"]:
        other = key.get("alg", algorithm) != algorithm or (kid is not None and key.get("kid", kid) != kid)
        if key["kty"] != kind or other:
            continue
        try:
            return jwt.decode(
                assertion,
                jwt.PyJWK(key, algorithm=algorithm),
                algorithms=[str(algorithm)],
                options={"require": ["iss", "sub", "aud", "exp", "jti"], "verify_aud": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
    return None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
