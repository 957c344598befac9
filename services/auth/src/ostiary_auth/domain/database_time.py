"""Following the database's clock, and what happens when it is put back.

A revocation is deleted when all that it hits has expired. If the clock was ahead until then, and is put back, tokens
come alive again that were revoked, and others become valid later that were issued meanwhile. So the latest time that
the clock has shown is stored, before any replica uses it; and when the clock is put back behind it, every access token
is revoked once, for as long as one may live that was issued until then. Sessions go on.
"""

from dataclasses import replace
from datetime import datetime

import structlog

from ostiary.feed import EVERYTHING, Kind
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.clock import CLOCK_MARGIN, STORED_EVERY, Reading, SharedClock
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.domain.ports import Store
from ostiary_auth.domain.revocation.log import RevocationLog

_log = structlog.stdlib.get_logger("clock")


class DatabaseTime:
    """Makes a clock follow the database's."""

    def __init__(self, store: Store, audit: AuditLog, revocations: RevocationLog, clock: SharedClock) -> None:
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self._clock = clock

    async def follow(self) -> None:
        """Read the database's clock once. If what it shows must be stored first and cannot be, nothing changes."""
        async with self._store.follow() as transaction:
            asked_at = self._clock.monotonic()
            reading = await transaction.time.read()
            answered_at = self._clock.monotonic()
        if self._is_put_back(reading):
            await self._revoke_all()
        elif reading.now > reading.latest + STORED_EVERY:
            async with self._store.write() as transaction:
                await transaction.time.advance(reading.now)
        self._clock.follow(reading.now, asked_at, answered_at)

    def _latest(self, reading: Reading) -> datetime:
        """Return the latest time at which a token may have been issued: the last ones maybe by this replica itself."""
        return max(reading.latest, self._clock.now()) if self._clock.is_following else reading.latest

    def _is_put_back(self, reading: Reading) -> bool:
        return reading.now < self._latest(reading) - CLOCK_MARGIN

    async def _revoke_all(self) -> None:
        """Revoke every access token that was issued until the latest time, unless another replica has."""
        async with self._store.queue() as transaction:
            reading = await transaction.time.lock()
            if not self._is_put_back(reading):
                return
            issued_until = Context(self._latest(reading), SYSTEM)
            await self._revocations.revoke(transaction, issued_until, Kind.ALL, EVERYTHING)
            seconds = int((issued_until.now - reading.now).total_seconds())
            context = replace(issued_until, now=reading.now)
            await self._audit.record(transaction, context, Event.CLOCK_PUT_BACK, facts={"seconds": seconds})
            await transaction.time.put_back(reading.now)
        _log.warning("database clock was put back", seconds=seconds)
