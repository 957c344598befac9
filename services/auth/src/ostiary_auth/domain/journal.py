"""The journal: two append-only logs that the domain writes in the transaction of what they are about.

The audit log says what happened. Each entry carries an HMAC over itself and the entry before it, under
a key that is sealed in the database: who can write to the database alone can neither change, insert,
reorder nor drop entries without `verify` seeing it. (Entries cut off at the end leave a chain that
is whole; for that, hold the last number and MAC against those in the service's own log.) What is
personal in an entry is chained by its digest only, so that it can be erased and the chain still holds.

The revocation log says which tokens do not count any more though they have not expired.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.store import Store, Transaction

_log = structlog.stdlib.get_logger("audit")

#: Bytes of the key of the audit chain (RFC 2104 section 3: as long as the hash), and of the salt of a personal digest.
AUDIT_KEY_BYTES = 32
SALT_BYTES = 16

#: How long after its expiry a token may still be accepted somewhere: clocks differ, and verifiers have a leeway.
EXPIRY_MARGIN = timedelta(seconds=60)

#: What an entry's facts are: no secrets, and nothing personal.
Facts = Mapping[str, str | int | list[str]]


class Event(StrEnum):
    """What the audit log records."""

    USER_REGISTERED = "user.registered"
    USER_CREATED = "user.created"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_ROLES_CHANGED = "user.roles_changed"
    USER_PASSWORD_CHANGED = "user.password_changed"  # noqa: S105 - an event's name
    USER_EXPORTED = "user.exported"
    USER_DELETED = "user.deleted"
    LOGIN_SUCCEEDED = "login.succeeded"
    LOGIN_FAILED = "login.failed"
    PASSWORD_CHECK_FAILED = "password_check.failed"  # noqa: S105 - an event's name
    SESSION_ENDED = "session.ended"
    REFRESH_TOKEN_REPLAYED = "refresh_token.replayed"  # noqa: S105 - an event's name
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - an event's name
    CLIENT_CREATED = "client.created"
    CLIENT_DISABLED = "client.disabled"
    CLIENT_ENABLED = "client.enabled"
    CLIENT_SECRET_ROTATED = "client.secret_rotated"  # noqa: S105 - an event's name
    CLIENT_DELETED = "client.deleted"
    CLIENT_AUTHENTICATION_FAILED = "client.authentication_failed"
    KEY_MADE = "key.made"
    KEY_SIGNS = "key.signs"
    KEY_RETIRED = "key.retired"
    KEY_GONE = "key.gone"
    KEY_REVOKED = "key.revoked"
    KEYS_REWRAPPED = "keys.rewrapped"


class RevocationKind(StrEnum):
    """What a revocation hits: one session, one token, all of a user's, a client's or a key's tokens from before."""

    SESSION = "session"
    TOKEN = "token"  # noqa: S105 - a kind
    SUBJECT = "subject"
    CLIENT = "client"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit log. `actor` did it, to or about `subject`."""

    number: int
    at: datetime
    event: str
    actor: str
    subject: str | None
    facts: Facts
    personal: Mapping[str, str] | None
    personal_digest: bytes | None
    mac: bytes


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry of the revocation log: it hits what was issued up to `at`, and matters until `expires_at`."""

    number: int
    kind: str
    target: str
    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of checking the audit log. `broken_at` is the number of the first entry that does not fit."""

    entries: int
    broken_at: int | None
    head: bytes


class Journal:
    """Writes and checks the two logs."""

    def __init__(self, audit_key: bytes, token_lifetime: timedelta) -> None:
        """Chain entries under `audit_key`; no access token lives longer than `token_lifetime`."""
        self._audit_key = audit_key
        self._token_lifetime = token_lifetime

    async def record(
        self,
        transaction: Transaction,
        context: Context,
        event: Event,
        *,
        subject: str | None = None,
        facts: Facts | None = None,
        personal: Mapping[str, str | None] | None = None,
    ) -> None:
        """Append to the audit log. Take the transaction's row locks before: from here on all replicas queue."""
        about = {"source": context.source, "user_agent": context.user_agent, **(personal or {})}
        known = {name: value for name, value in about.items() if value is not None}
        erasable = {**known, "salt": secrets.token_hex(SALT_BYTES)} if known else None
        last = await transaction.journal.last_entry()
        number = last.number + 1 if last else 1
        entry = AuditEntry(
            number=number,
            at=context.now,
            event=event,
            actor=context.actor,
            subject=subject,
            facts=facts or {},
            personal=erasable,
            personal_digest=_digest(erasable) if erasable else None,
            mac=b"",
        )
        mac = self._mac(entry, last.mac if last else b"")
        await transaction.journal.add_entry(entry, mac)
        line = {"number": number, "actor": context.actor, "subject": subject, "mac": mac.hex(), **entry.facts}
        # Not before: a line about what was rolled back would look like an entry that has been cut off.
        transaction.on_commit(lambda: _log.info(event, **line))

    async def revoke(self, transaction: Transaction, context: Context, kind: RevocationKind, target: str) -> None:
        """Append to the revocation log. Take the transaction's row locks before: from here on all replicas queue."""
        expires_at = context.now + self._token_lifetime + EXPIRY_MARGIN
        await transaction.journal.add_revocation(kind, target, context.now, expires_at)

    async def verify(self, store: Store) -> AuditReport:
        """Check every entry of the audit log against the one before it."""
        mac, count = b"", 0
        async for entry in _entries(store):
            count += 1
            intact = entry.personal is None or entry.personal_digest == _digest(entry.personal)
            expected = self._mac(entry, mac)
            if entry.number != count or not intact or not hmac.compare_digest(entry.mac, expected):
                return AuditReport(count - 1, entry.number, mac)
            mac = entry.mac
        return AuditReport(count, None, mac)

    def _mac(self, entry: AuditEntry, previous: bytes) -> bytes:
        digest = entry.personal_digest.hex() if entry.personal_digest else None
        at = int(entry.at.timestamp() * 1_000_000)
        content = [entry.number, at, entry.event, entry.actor, entry.subject, dict(entry.facts), digest]
        return hmac.digest(self._audit_key, previous + _canonical(content), hashlib.sha256)


def _digest(personal: Mapping[str, str]) -> bytes:
    return hashlib.sha256(_canonical(dict(personal))).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


async def _entries(store: Store) -> AsyncIterator[AuditEntry]:
    """Yield all entries in their order, a page at a time."""
    number = 0
    while True:
        async with store.read() as transaction:
            page = await transaction.journal.entries(after=number, limit=1000)
        if not page:
            return
        for entry in page:
            yield entry
        number = page[-1].number
