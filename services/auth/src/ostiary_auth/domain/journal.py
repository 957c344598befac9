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
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import structlog

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.store import Store, Transaction

_log = structlog.stdlib.get_logger("audit")

#: Bytes of the salt of a personal digest.
SALT_BYTES = 16

#: How long after its expiry a token may still be accepted somewhere: clocks differ, and verifiers have a leeway.
EXPIRY_MARGIN = timedelta(seconds=60)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Entries read at once, and a number below all that a database can hold.
_PAGE = 1000
_BEFORE_ALL = -(2**63)

#: What reading a column raises that somebody has written nonsense into.
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError)

#: How much later than its cutoff a token is still hit: replicas may be issuing while they have not seen it yet.
CUTOFF_MARGIN = timedelta(seconds=3)

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
    ) -> None:
        """Append to the audit log. Take the transaction's row locks before: from here on all replicas queue."""
        about = {"source": context.source, "user_agent": context.user_agent}
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
        cutoff = kind in {RevocationKind.SUBJECT, RevocationKind.CLIENT}
        at = context.now + CUTOFF_MARGIN if cutoff else context.now
        expires_at = at + self._token_lifetime + EXPIRY_MARGIN
        await transaction.journal.add_revocation(kind, target, at, expires_at)

    async def verify(self, store: Store) -> AuditReport:
        """Check every entry of the audit log against the one before it."""
        mac, count = b"", 0
        try:
            async for entry in _entries(store):
                if entry.number != count + 1 or not self._fits(entry, mac):
                    return AuditReport(count, entry.number, mac)
                mac, count = entry.mac, count + 1
        except _UNREADABLE:
            return AuditReport(count, count + 1, mac)
        return AuditReport(count, None, mac)

    def _fits(self, entry: AuditEntry, previous: bytes) -> bool:
        """Return whether an entry is as it was written, after the one whose MAC is given."""
        intact = entry.personal is None or entry.personal_digest == _digest(entry.personal)
        return intact and hmac.compare_digest(entry.mac, self._mac(entry, previous))

    def _mac(self, entry: AuditEntry, previous: bytes) -> bytes:
        digest = entry.personal_digest.hex() if entry.personal_digest else None
        at = (entry.at - _EPOCH) // timedelta(microseconds=1)
        content = [entry.number, at, entry.event, entry.actor, entry.subject, dict(entry.facts), digest]
        return hmac.digest(self._audit_key, previous + _canonical(content), hashlib.sha256)


def _digest(personal: Mapping[str, str]) -> bytes:
    return hashlib.sha256(_canonical(dict(personal))).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


async def _entries(store: Store) -> AsyncIterator[AuditEntry]:
    """Yield all entries in their order, a page at a time."""
    number, limit = _BEFORE_ALL, _PAGE
    while True:
        try:
            async with store.read() as transaction:
                page = await transaction.journal.entries(after=number, limit=limit)
        except _UNREADABLE:
            if limit == 1:
                raise
            limit = 1  # up to the one that cannot be read
            continue
        if not page:
            return
        for entry in page:
            yield entry
        number = page[-1].number
