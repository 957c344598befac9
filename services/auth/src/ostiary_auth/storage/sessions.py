"""Sessions and refresh tokens on SQL."""

from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.sessions import Chain, EndReason, RefreshToken, Session
from ostiary_auth.storage.tables import refresh_tokens, sessions, users
from ostiary_auth.storage.users import user_of
from ostiary_chassis.sql import Database

_SESSION_COLUMNS = [column for column in sessions.c if column.name != "end_reason"]
_successors = refresh_tokens.alias("successors")
_parts = (list(refresh_tokens.c), list(_successors.c), _SESSION_COLUMNS, list(users.c))

#: A refresh token with all that a decision about it needs, in one statement.
_CHAIN = (
    select(*(column.label(f"{number}_{column.name}") for number, part in enumerate(_parts) for column in part))
    .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
    .join(users, users.c.id == sessions.c.user_id)
    .outerjoin(_successors, _successors.c.hash == refresh_tokens.c.successor_hash)
)


class SqlSessions:
    """Rows of `sessions` and `refresh_tokens`."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        """Use an open transaction."""
        self._connection = connection
        self._database = database

    async def add(self, session: Session) -> None:
        """Add a session."""
        await self._connection.execute(insert(sessions).values(**asdict(session)))

    async def all_of(self, user_id: UUID) -> list[Session]:
        """Return all sessions of a user that are still stored."""
        query = select(*_SESSION_COLUMNS).where(sessions.c.user_id == user_id).order_by(sessions.c.created_at)
        return [Session(**row._mapping) for row in await self._connection.execute(query)]

    async def not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return the sessions of a user that have neither been ended nor reached their absolute limit."""
        query = select(*_SESSION_COLUMNS).where(sessions.c.user_id == user_id, _open(now))
        return [Session(**row._mapping) for row in await self._connection.execute(query)]

    async def lock_not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return and lock the same, always in one order, so that two cannot block each other."""
        query = select(*_SESSION_COLUMNS).where(sessions.c.user_id == user_id, _open(now))
        result = await self._connection.execute(query.order_by(sessions.c.id).with_for_update())
        return [Session(**row._mapping) for row in result]

    async def is_open(self, session_id: UUID, now: datetime) -> bool:
        """Return whether a session has neither been ended nor reached its absolute limit."""
        result = await self._connection.execute(select(sessions.c.id).where(sessions.c.id == session_id, _open(now)))
        return result.one_or_none() is not None

    async def end(self, session_id: UUID, reason: EndReason, now: datetime) -> None:
        """Mark a session as ended."""
        await self._connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(ended_at=now, end_reason=reason)
        )

    async def add_refresh_token(self, token: RefreshToken) -> None:
        """Add a refresh token."""
        await self._connection.execute(insert(refresh_tokens).values(**asdict(token)))

    async def chain(self, token_hash: bytes) -> Chain | None:
        """Return the refresh token with this hash and what belongs to it."""
        result = await self._connection.execute(_CHAIN.where(refresh_tokens.c.hash == token_hash))
        row = result.one_or_none()
        if row is None:
            return None
        values = iter(row)
        token, successor, session, user = ({column.name: next(values) for column in part} for part in _parts)
        return Chain(
            token=RefreshToken(**token),
            successor=RefreshToken(**successor) if successor["hash"] is not None else None,
            session=Session(**session),
            user=user_of(user),
        )

    async def lock_chain(self, token_hash: bytes) -> Chain | None:
        """Lock the session first and read after, so that what is read is what the winner left."""
        if not self._database.is_sqlite:
            session_id = select(refresh_tokens.c.session_id).where(refresh_tokens.c.hash == token_hash)
            await self._connection.execute(
                select(sessions.c.id).where(sessions.c.id == session_id.scalar_subquery()).with_for_update()
            )
        return await self.chain(token_hash)

    async def rotate(self, used: bytes, nonce: bytes, successor: RefreshToken) -> None:
        """Mark a token as used, add its successor, and note the session's use."""
        await self._connection.execute(
            update(refresh_tokens)
            .where(refresh_tokens.c.hash == used)
            .values(used_at=successor.created_at, successor_nonce=nonce, successor_hash=successor.hash)
        )
        await self.add_refresh_token(successor)
        await self._connection.execute(
            update(sessions).where(sessions.c.id == successor.session_id).values(last_used_at=successor.created_at)
        )


def _open(now: datetime) -> ColumnElement[bool]:
    return and_(sessions.c.ended_at.is_(None), sessions.c.expires_at > now)
