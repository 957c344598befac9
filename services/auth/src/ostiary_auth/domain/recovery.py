"""What is done when entries of the revocation log may be lost, as when a backup of the database was restored.

Whatever was revoked since is good again: access tokens, sessions, and signing keys. Which ones is not known, so all are
revoked: a new log begins with the revocation of all access tokens, all sessions end, and new keys sign. Verifiers go on
with the new log by themselves. Users log in again.
"""

from typing import TYPE_CHECKING

from ostiary_auth.domain.audit.log import AuditLog
from ostiary_auth.domain.audit.model import Event
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.keys.rotation import SigningKeys, make_replacements
from ostiary_auth.domain.ports import Store, Transaction
from ostiary_auth.domain.revocation.log import RevocationLog
from ostiary_auth.domain.revocation.model import ReplacedLog

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

#: The name of the lock that lets one replica at a time restart the log.
_LOCK = "recovery"


class Recovery:
    """Restarts the log. `key_bits` is the size of new keys."""

    def __init__(
        self, store: Store, audit: AuditLog, revocations: RevocationLog, keys: SigningKeys, key_bits: int
    ) -> None:
        self._store = store
        self._audit = audit
        self._revocations = revocations
        self._keys = keys
        self._key_bits = key_bits

    async def restart(self, context: Context, *, keep_sessions: bool = False) -> int:
        """Begin a new log; return how many sessions ended.

        With `keep_sessions`, none ends: those that were ended after the backup go on as if they had not been.
        """
        replacements = await make_replacements(self._key_bits)
        async with self._store.queue() as transaction:
            return await self.restart_in(transaction, context, replacements, keep_sessions=keep_sessions)

    async def restart_replaced(self, context: Context, replaced: ReplacedLog) -> None:
        """Begin a new log in place of a stored one that lacks entries, unless another replica has done so already."""
        replacements = await make_replacements(self._key_bits)
        async with self._store.queue() as transaction:
            await transaction.lock(_LOCK)
            if (await transaction.revocations.head()).epoch == replaced.epoch:
                await self.restart_in(transaction, context, replacements, known=replaced.number)

    async def restart_in(
        self,
        transaction: Transaction,
        context: Context,
        replacements: "list[rsa.RSAPrivateKey]",
        *,
        known: int = 0,
        keep_sessions: bool = False,
    ) -> int:
        """Begin a new log above a known number; `replacements` are new signing keys, of `make_replacements`."""
        ended = 0 if keep_sessions else await transaction.sessions.end_all("log_restarted", context.now)
        # Before anything is appended to a log, or this and a rotation of keys could deadlock.
        await self._keys.lock(transaction)
        await self._revocations.restart(transaction, context, known)
        await self._keys.replace_all(transaction, context, replacements)
        await self._audit.record(transaction, context, Event.LOG_RESTARTED, facts={"ended_sessions": ended})
        return ended
