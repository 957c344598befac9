"""The domain's store on SQL, the same statements on SQLite and PostgreSQL."""

from dataclasses import asdict

from sqlalchemy import delete, insert, select, update

from ostiary_chassis.sql import SqlTransaction
from ostiary_profile.domain import Profile
from ostiary_profile.storage.tables import profiles


class ProfileTransaction(SqlTransaction):
    """A Transaction on a SQL connection; see the protocol for what each method promises."""

    async def get(self, user_id: str) -> Profile | None:
        """Return a profile."""
        result = await self._connection.execute(select(profiles).where(profiles.c.user_id == user_id))
        row = result.one_or_none()
        return Profile(**row._mapping) if row else None

    async def get_locked(self, user_id: str) -> Profile | None:
        """Lock by name and not by row, as there may be no row yet."""
        await self._database.lock(self._connection, f"profile:{user_id}")
        return await self.get(user_id)

    async def put(self, profile: Profile) -> None:
        """Write a profile, whether there was one or not."""
        values = asdict(profile)
        statement = update(profiles).where(profiles.c.user_id == profile.user_id).values(**values)
        updated = await self._connection.execute(statement)
        if updated.rowcount == 0:
            await self._connection.execute(insert(profiles).values(**values))

    async def delete(self, user_id: str) -> None:
        """Delete a profile, if there is one."""
        await self._connection.execute(delete(profiles).where(profiles.c.user_id == user_id))
