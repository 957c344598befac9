"""The journal: two append-only logs that the domain writes in the transaction of what they are about.

The audit log says what happened. Each entry carries an HMAC over itself and the entry before it, under
a key that is sealed in the database: who can write to the database alone can neither change, insert,
reorder nor drop entries without `verify` seeing it. (Entries cut off at the end leave a chain that
is whole; for that, hold the last number and MAC against those in the service's own log.) What is
personal in an entry is chained by its digest only, so that it can be erased and the chain still holds.

The revocation log says which tokens do not count any more though they have not expired. Each entry has the
next number, in the order of commits, and is chained to the one before, so that verifiers see when the log is
not the one that they have followed (`ostiary.feed`).
"""

import hashlib
import hmac
import json
import math
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import structlog

from ostiary.feed import EVERYTHING, Kind, Revocation, chain
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.ports import Store, Transaction

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

#: How long a verifier may go on with keys that it has fetched (the hard cap of `ostiary`).
KEYS_HELD = timedelta(hours=24)

#: Bytes of randomness in a log's name, and more numbers than can have been given since a backup was made.
EPOCH_BYTES = 8
LOST_NUMBERS = 2**32

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
    ALL_REVOKED = "tokens.all_revoked"
    LOG_RESTARTED = "revocation_log.restarted"


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
class LogHead:
    """Where the revocation log ends: its name, the number of its last entry, and the chain's value there."""

    epoch: str
    number: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class LoggedRevocation:
    """One entry of the revocation log. It matters until `expires_at`; `digest` is the chain's value after it."""

    number: int
    kind: Kind
    target: str
    at: datetime
    expires_at: datetime
    digest: bytes

    @property
    def revocation(self) -> Revocation:
        """What verifiers are told."""
        return _told(self.number, self.kind, self.target, self.expires_at)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of checking the audit log. `broken_at` is the number of the first entry that does not fit."""

    entries: int
    broken_at: int | None
    head: bytes


class Journal:
    """Writes and checks the two logs."""

    def __init__(
        self, audit_key: bytes, token_lifetime: timedelta, on_revoked: Callable[[], None] = lambda: None
    ) -> None:
        """Chain entries under `audit_key`; no access token lives longer than `token_lifetime`.

        `on_revoked` is called when a revocation has been committed here.
        """
        self._audit_key = audit_key
        self._token_lifetime = token_lifetime
        self._on_revoked = on_revoked

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

    async def revoke(self, transaction: Transaction, context: Context, kind: Kind, target: str) -> None:
        """Append to the revocation log. Take the transaction's row locks before: from here on all replicas queue."""
        head = await transaction.journal.lock_head()
        # A key that somebody else has signs tokens of any length: it is refused as long as a key set may be held.
        lifetime = max(self._token_lifetime, KEYS_HELD) if kind is Kind.KEY else self._token_lifetime
        number, expires_at = head.number + 1, context.now + lifetime + EXPIRY_MARGIN
        digest = chain(head.digest, _told(number, kind, target, expires_at))
        await transaction.journal.add_revocation(
            LoggedRevocation(number, kind, target, context.now, expires_at, digest)
        )
        context.revocations.append(number)
        transaction.on_commit(self._on_revoked)

    async def revoke_all(self, store: Store, context: Context) -> None:
        """Revoke every access token that there is; sessions go on, and are refreshed."""
        async with store.write() as transaction:
            await self.revoke(transaction, context, Kind.ALL, EVERYTHING)
            await self.record(transaction, context, Event.ALL_REVOKED)

    async def restart_log(self, store: Store, context: Context) -> None:
        """Begin the revocation log anew, under another name: its past has been lost, as by restoring a backup.

        All access tokens are revoked, because nobody knows what was revoked meanwhile. Verifiers that followed the log
        refuse the new one until they are started again.
        """
        async with store.write() as transaction:
            head = await transaction.journal.lock_head()
            await transaction.journal.restart_log(secrets.token_hex(EPOCH_BYTES), head.number + LOST_NUMBERS)
            await self.revoke(transaction, context, Kind.ALL, EVERYTHING)
            await self.record(transaction, context, Event.LOG_RESTARTED)

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


def _told(number: int, kind: Kind, target: str, expires_at: datetime) -> Revocation:
    return Revocation(number, kind, target, math.ceil(expires_at.timestamp()))


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
