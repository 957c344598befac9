"""The revocation log: which tokens are revoked although they have not expired.

Entries are numbered in the order of commits, and each is chained to the one before, so that verifiers detect a log
that is not the one they have followed (`ostiary.feed`).
"""

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from ostiary.feed import EVERYTHING, Kind, chain
from ostiary.jwt import MAX_LEEWAY
from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.clock import CLOCK_MARGIN, STORED_EVERY
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.model import LoggedRevocation, RevokedNumbers, published

#: How long after its expiry a token may still be accepted somewhere: verifiers have a leeway, and the clock may have
#: been put back by so little that nothing is revoked for that (see `database_time`).
EXPIRY_MARGIN = timedelta(seconds=MAX_LEEWAY) + CLOCK_MARGIN + STORED_EVERY

#: How long a verifier may go on using keys that it has fetched (the hard limit of `ostiary`).
KEYS_HELD = timedelta(hours=24)

#: Bytes of randomness in a log's name.
EPOCH_BYTES = 8

#: A new log goes on above all numbers that may have been assigned before: it begins at its time in seconds, times more
#: entries than are ever made in one, and, in case the clock is slow, by more than a backup can lack above the last one.
NUMBERS_PER_SECOND = 2**20
LOST_NUMBERS = 2**26


class RevocationLog:
    """Appends to the revocation log. No access token lives longer than `token_lifetime`.

    `on_revoked` is called when a revocation has been committed by this process.
    """

    def __init__(
        self, audit: AuditLog, token_lifetime: timedelta, on_revoked: Callable[[], None] = lambda: None
    ) -> None:
        self._audit = audit
        self._token_lifetime = token_lifetime
        self._on_revoked = on_revoked

    async def revoke(self, transaction: Transaction, context: Context, kind: Kind, target: str) -> RevokedNumbers:
        """Append an entry. Do all else before: from here to the commit, appends of all replicas serialise."""
        # A leaked key can sign tokens of any lifetime: it stays revoked as long as a key set may be held.
        lifetime = max(self._token_lifetime, KEYS_HELD) if kind is Kind.KEY else self._token_lifetime
        number = await self._append(transaction, kind, target, context.now, context.now + lifetime + EXPIRY_MARGIN)
        transaction.on_commit(self._on_revoked)
        return (number,)

    async def revoke_all(self, store: Store, context: Context) -> RevokedNumbers:
        """Revoke every access token; sessions continue, and clients refresh."""
        async with store.queue() as transaction:
            revoked = await self.revoke(transaction, context, Kind.ALL, EVERYTHING)
            await self._audit.record(transaction, context, Event.ALL_REVOKED)
        return revoked

    async def restart(self, transaction: Transaction, context: Context, known: int = 0) -> RevokedNumbers:
        """Begin a new log under another name, because entries of this one may be lost; revoke all access tokens.

        Verifiers go on with it, as its numbers are above all that they have followed. What it takes over from the old
        log is what the one entry for all tokens does not cover: a revoked key could still sign new ones. `known` is a
        number that was assigned, though the stored log may end before it.
        """
        head = await transaction.revocations.lock_head()
        number = max(max(head.number, known) + LOST_NUMBERS, int(context.now.timestamp()) * NUMBERS_PER_SECOND)
        keys = await transaction.revocations.restart(secrets.token_hex(EPOCH_BYTES), number)
        for revoked in keys:
            # Anew, as all entries of the new log have to be above the old one.
            await self._append(transaction, revoked.kind, revoked.target, revoked.at, revoked.expires_at)
        return await self.revoke(transaction, context, Kind.ALL, EVERYTHING)

    async def _append(
        self, transaction: Transaction, kind: Kind, target: str, at: datetime, expires_at: datetime
    ) -> int:
        head = await transaction.revocations.lock_head()
        number = head.number + 1
        digest = chain(head.digest, published(number, kind, target, expires_at))
        transaction.revocations.add(LoggedRevocation(number, kind, target, at, expires_at, digest))
        return number
