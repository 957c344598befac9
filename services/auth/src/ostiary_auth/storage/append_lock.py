"""The lock on the ends of the audit log and the revocation log."""

from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_chassis.sql import Database


class AppendLock:
    """Lets one transaction at a time append to either log, over all replicas.

    One lock for both, as most transactions append to both, in either order: two locks could deadlock.
    """

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database
        self._is_held = False

    async def acquire(self) -> None:
        """Acquire the lock until the end of the transaction, if it is not held already."""
        if not self._is_held:
            await self._database.lock(self._connection, "journal")
            self._is_held = True
