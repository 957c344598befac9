"""The audit log: an append-only record, written in the same transaction as the change it is about.

Each entry carries an HMAC over itself and the entry before it, under a key that is sealed in the database.
Write access to the database alone is not enough to change, insert, reorder or drop entries without `verify`
detecting it. Entries cut off at the end leave an intact chain; to detect that, compare the last number and MAC
with those in the service's own log. Personal data in an entry is chained by its digest only, so that it can be
erased without breaking the chain.

Old entries are deleted from the start of the log. An entry is recorded before that, with number and MAC of the last one
that goes: from there on the rest can be verified, and nobody else can make up such an entry. Entries up to there do not
count any more, whether they have been deleted yet or not.

What has been verified is recorded in the same way, so that the next verification goes on from there. Entries that are
changed later than that are found by one from the start only.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from ostiary_auth.domain.audit.model import AuditEntry, AuditReport, Event, Facts
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.ports import Store, Transaction

_log = structlog.stdlib.get_logger("audit")

#: Bytes of the salt of a personal digest.
SALT_BYTES = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Entries per page, which take milliseconds, and a number below all that a database can hold.
_PAGE = 100
_BEFORE_ALL = -(2**63)

#: The log is trimmed when its first entry is that much too old, so that not every run adds an entry about it.
TRIMMED_EVERY = timedelta(days=1)

#: Entries that one trim goes through at most; those beyond have their turn with the next one.
EXAMINED_AT_ONCE = 50_000

#: Entries deleted in one transaction, and the pause before the next one, so that waiting writers go first.
TRIMMED_AT_ONCE = 250
TRIM_PAUSE_SECONDS = 0.01

#: Entries that a verification has to go through until it is worth an entry of its own.
RECORDED_EVERY = 10_000

#: Errors from reading a column that was overwritten with a value of another form.
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError)


class AuditLog:
    """Appends to the audit log, and verifies it. `key` is the key of the MACs."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def record(
        self,
        transaction: Transaction,
        context: Context,
        event: Event,
        *,
        subject: str | None = None,
        facts: Facts | None = None,
    ) -> None:
        """Append an entry. Do all else before: from here to the commit, appends of all replicas serialise."""
        about = {"source": context.source, "user_agent": context.user_agent}
        known = {name: value for name, value in about.items() if value is not None}
        erasable = {**known, "salt": secrets.token_hex(SALT_BYTES)} if known else None
        head = await transaction.audit.lock_head()
        entry = AuditEntry(
            number=head.number + 1,
            at=context.now,
            event=event,
            actor=context.actor,
            subject=subject,
            facts=facts or {},
            personal=erasable,
            personal_digest=_digest(erasable) if erasable else None,
            mac=b"",
        )
        entry = replace(entry, mac=self._mac(entry, head.mac))
        transaction.audit.add(entry)
        line = {"number": entry.number, "actor": entry.actor, "subject": subject, "mac": entry.mac.hex(), **entry.facts}
        if context.request_id is not None:
            # Several requests may share the transaction.
            line["request_id"] = context.request_id
        # Only after the commit: a line about a rolled-back entry would look like an entry that was cut off.
        transaction.on_commit(lambda: _log.info(event, **line))

    async def trim(self, store: Store, kept_from: datetime, context: Context) -> None:
        """Delete entries from before a time, if there are some from a day before that."""
        async with store.read() as transaction:
            oldest = await transaction.audit.entries(_BEFORE_ALL, 1)
            if not oldest or oldest[0].at >= kept_from - TRIMMED_EVERY:
                return
            last = await transaction.audit.last_before(kept_from, oldest[0].number + EXAMINED_AT_ONCE)
        if last is None:
            return
        async with store.queue() as transaction:
            facts: Facts = {"through": last.number, "mac": last.mac.hex()}
            await self.record(transaction, context, Event.AUDIT_LOG_TRIMMED, facts=facts)
        deleted = TRIMMED_AT_ONCE
        while deleted == TRIMMED_AT_ONCE:
            async with store.write() as transaction:
                deleted = await transaction.audit.remove_through(last.number, TRIMMED_AT_ONCE)
            await asyncio.sleep(TRIM_PAUSE_SECONDS)

    async def verify(
        self, store: Store, *, from_start: bool = False, limit: int | None = None, pause: float = 0.0
    ) -> AuditReport:
        """Check every entry against the one before it, from where the last recorded verification has ended.

        With `from_start`, check every entry that is kept. `limit` is how many entries are checked at most, and `pause`
        are seconds between pages, which belong to others.
        """
        report = await self._verify(store, from_start, limit, pause)
        # What is missing may have been trimmed meanwhile.
        while report.broken_at is not None and await self._trimmed(store) > report.trimmed:
            report = await self._verify(store, from_start, limit, pause)
        return report

    async def record_verified(self, store: Store, report: AuditReport, context: Context) -> None:
        """Let later verifications go on where one has ended, if it has found nothing and was long enough."""
        if report.broken_at is None and report.entries - report.start >= RECORDED_EVERY:
            async with store.queue() as transaction:
                facts: Facts = {"through": report.entries, "mac": report.head.hex()}
                await self.record(transaction, context, Event.AUDIT_LOG_VERIFIED, facts=facts)

    async def _verify(self, store: Store, from_start: bool, limit: int | None, pause: float) -> AuditReport:
        trimmed, start, last, mac = 0, 0, 0, b""
        try:
            trimmed, mac = await self._end_of(store, Event.AUDIT_LOG_TRIMMED)
            start = trimmed
            if not from_start:
                start, mac = max((start, mac), await self._end_of(store, Event.AUDIT_LOG_VERIFIED))
            last = start
            async for entry in _entries(store, after=start or _BEFORE_ALL, pause=pause):
                if last - start == limit:
                    return AuditReport(last, None, mac, trimmed, start, is_complete=False)
                if entry.number != last + 1 or not self._fits(entry, mac):
                    return AuditReport(last, entry.number, mac, trimmed, start)
                mac, last = entry.mac, entry.number
        except _UNREADABLE:
            return AuditReport(last, last + 1, mac, trimmed, start)
        return AuditReport(last, None, mac, trimmed, start)

    async def _trimmed(self, store: Store) -> int:
        """Return the number of the last entry that does not count any more; 0 if that cannot be read."""
        with suppress(*_UNREADABLE):
            return (await self._end_of(store, Event.AUDIT_LOG_TRIMMED))[0]
        return 0

    async def _end_of(self, store: Store, event: Event) -> tuple[int, bytes]:
        """Return number and MAC of the last entry that was trimmed, or verified, as such entries say.

        Nothing is believed before they have been verified themselves, and they come after it.
        """
        async with store.read() as transaction:
            recorded = await transaction.audit.checkpoints(event)
        # Of two replicas that trim at once, the one that deletes less may record it later.
        return max((_through(entry) for entry in recorded), default=(0, b""))

    def _fits(self, entry: AuditEntry, previous: bytes) -> bool:
        """Return whether an entry is unchanged, given the MAC of the entry before it."""
        intact = entry.personal is None or entry.personal_digest == _digest(entry.personal)
        return intact and hmac.compare_digest(entry.mac, self._mac(entry, previous))

    def _mac(self, entry: AuditEntry, previous: bytes) -> bytes:
        digest = entry.personal_digest.hex() if entry.personal_digest else None
        at = (entry.at - _EPOCH) // timedelta(microseconds=1)
        content = [entry.number, at, entry.event, entry.actor, entry.subject, dict(entry.facts), digest]
        return hmac.digest(self._key, previous + _canonical(content), hashlib.sha256)


def _through(entry: AuditEntry) -> tuple[int, bytes]:
    """Return number and MAC of the last entry that another one is about. Raises ValueError."""
    through, mac = int(str(entry.facts["through"])), bytes.fromhex(str(entry.facts["mac"]))
    if not 0 < through < entry.number:
        raise ValueError("it must be among the entries that are verified from there on")
    return through, mac


def _digest(personal: Mapping[str, str]) -> bytes:
    return hashlib.sha256(_canonical(dict(personal))).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


async def _entries(store: Store, after: int, pause: float = 0.0) -> AsyncIterator[AuditEntry]:
    """Yield all entries with numbers over `after` in order, read in pages."""
    number, limit = after, _PAGE
    while True:
        try:
            async with store.read() as transaction:
                page = await transaction.audit.entries(after=number, limit=limit)
        except _UNREADABLE:
            if limit == 1:
                raise
            limit = 1  # one by one, up to the entry that cannot be read
            continue
        if not page:
            return
        for entry in page:
            yield entry
        number = page[-1].number
        await asyncio.sleep(pause)
