"""The domain's store on SQL, with the same statements for SQLite and PostgreSQL."""

from dataclasses import asdict

from sqlalchemy import delete, insert, select, update

from ostiary_chassis.sql import SqlTransaction
from ostiary_profile.domain import Profile
from ostiary_profile.storage.tables import profiles


class ProfileTransaction(SqlTransaction):
    """A Transaction on a SQL connection; the protocol documents its methods."""

    async def get(self, user_id: str) -> Profile | None:
        result = await self._connection.execute(select(profiles).where(profiles.c.user_id == user_id))
        row = result.one_or_none()
        return Profile(**row._mapping) if row else None

    async def get_locked(self, user_id: str) -> Profile | None:
        # By name and not by row, as there may be no row yet.
        await self._database.lock(self._connection, f"profile:{user_id}")
        return await self.get(user_id)

    async def put(self, profile: Profile) -> None:
        values = asdict(profile)
        statement = update(profiles).where(profiles.c.user_id == profile.user_id).values(**values)
        updated = await self._connection.execute(statement)
        if updated.rowcount == 0:
            await self._connection.execute(insert(profiles).values(**values))

    async def delete(self, user_id: str) -> None:
        await self._connection.execute(delete(profiles).where(profiles.c.user_id == user_id))
