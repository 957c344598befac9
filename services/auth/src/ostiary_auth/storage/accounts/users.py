"""Users on SQL."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.errors import EmailTaken
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.sessions.tables import sessions

#: What makes a `User`.
USER_COLUMNS = [column for column in users.c if column is not users.c.deleted_at]

_ALL = select(*USER_COLUMNS).where(users.c.deleted_at.is_(None))
_BY_ID = _ALL.where(users.c.id == bindparam("user_id"))
_LOCK = _BY_ID.with_for_update()
_BY_EMAIL_KEY = _ALL.where(users.c.email_key == bindparam("email_key"))


class SqlUsers:
    """Implements `UserRows`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, user: User) -> None:
        try:
            await self._connection.execute(insert(users).values(**asdict(user)))
        except IntegrityError as error:
            raise EmailTaken from error

    async def get(self, user_id: UUID) -> User | None:
        result = await self._connection.execute(_BY_ID, {"user_id": user_id})
        return _or_none(result.one_or_none())

    async def lock(self, user_id: UUID) -> User | None:
        result = await self._connection.execute(_LOCK, {"user_id": user_id})
        return _or_none(result.one_or_none())

    async def by_email_key(self, email_key: str) -> User | None:
        result = await self._connection.execute(_BY_EMAIL_KEY, {"email_key": email_key})
        return _or_none(result.one_or_none())

    async def page(self, after: UUID | None, limit: int) -> list[User]:
        query = _ALL.order_by(users.c.id).limit(limit)
        result = await self._connection.execute(query.where(users.c.id > after) if after else query)
        return [user_of(row._mapping) for row in result]

    async def replace(self, user: User) -> None:
        await self._connection.execute(update(users).where(users.c.id == user.id).values(**asdict(user)))

    async def mark_deleted(self, user_id: UUID, now: datetime) -> None:
        nothing = {"email": "", "display_name": None, "password_hash": "", "roles": ()}
        # No address has such a key: there is no "@" in it.
        gone = {"email_key": f"deleted:{user_id}", "disabled_at": now, "deleted_at": now}
        await self._connection.execute(update(users).where(users.c.id == user_id).values(**nothing, **gone))

    async def deleted(self, limit: int) -> list[UUID]:
        query = select(users.c.id).where(users.c.deleted_at.is_not(None)).limit(limit)
        return list((await self._connection.execute(query)).scalars())

    async def remove_deleted(self, user_id: UUID) -> None:
        done = users.c.deleted_at.is_not(None) & ~exists().where(sessions.c.user_id == users.c.id)
        await self._connection.execute(delete(users).where(users.c.id == user_id, done))


def user_of(values: Any) -> User:
    """Return the user in a row's columns, given by name."""
    return User(**{**values, "roles": tuple(values["roles"])})


def _or_none(row: Row[Any] | None) -> User | None:
    return user_of(row._mapping) if row else None
