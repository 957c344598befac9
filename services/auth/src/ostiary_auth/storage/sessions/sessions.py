"""Sessions and refresh tokens on SQL."""

from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.sessions.model import Chain, EndReason, RefreshToken, Session
from ostiary_auth.storage.accounts.tables import users
from ostiary_auth.storage.accounts.users import user_of
from ostiary_auth.storage.revocation.tables import revocation_head
from ostiary_auth.storage.sessions.tables import refresh_tokens, sessions
from ostiary_chassis.sql import Database

_SESSION_COLUMNS = [column for column in sessions.c if column.name != "end_reason"]
_successors = refresh_tokens.alias("successors")
_parts = (list(refresh_tokens.c), list(_successors.c), _SESSION_COLUMNS, list(users.c), [revocation_head.c.number])

# Statements on hot paths are built once; building one costs as much as running it.
_ADD = insert(sessions)
_ADD_TOKEN = insert(refresh_tokens)
_NOT_ENDED = select(*_SESSION_COLUMNS).where(
    sessions.c.user_id == bindparam("user_id"), sessions.c.ended_at.is_(None), sessions.c.expires_at > bindparam("now")
)
_COUNT_NOT_ENDED = _NOT_ENDED.with_only_columns(func.count())
#: In a fixed order, so that two transactions cannot deadlock.
_LOCK_NOT_ENDED = _NOT_ENDED.order_by(sessions.c.id).with_for_update()
_LOCK_OF_TOKEN = (
    select(sessions.c.id)
    .where(
        sessions.c.id
        == select(refresh_tokens.c.session_id).where(refresh_tokens.c.hash == bindparam("token_hash")).scalar_subquery()
    )
    .with_for_update()
)
#: A refresh token with everything that a decision about it needs, in one statement.
_CHAIN = (
    select(*(column.label(f"{number}_{column.name}") for number, part in enumerate(_parts) for column in part))
    .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
    .join(users, users.c.id == sessions.c.user_id)
    .join(revocation_head, revocation_head.c.id == 1)
    .outerjoin(_successors, _successors.c.hash == refresh_tokens.c.successor_hash)
    .where(refresh_tokens.c.hash == bindparam("token_hash"))
)
_NAMES = [[column.name for column in part] for part in _parts]
_USE_TOKEN = (
    update(refresh_tokens)
    .where(refresh_tokens.c.hash == bindparam("used"))
    .values(used_at=bindparam("now"), successor_nonce=bindparam("nonce"), successor_hash=bindparam("successor"))
)
_USE_SESSION = update(sessions).where(sessions.c.id == bindparam("used")).values(last_used_at=bindparam("now"))


class SqlSessions:
    """Implements `SessionRows`."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database

    async def add(self, session: Session) -> None:
        await self._connection.execute(_ADD, asdict(session))

    async def all_of(self, user_id: UUID) -> list[Session]:
        query = select(*_SESSION_COLUMNS).where(sessions.c.user_id == user_id).order_by(sessions.c.created_at)
        return [Session(**row._mapping) for row in await self._connection.execute(query)]

    async def not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        rows = await self._connection.execute(_NOT_ENDED, {"user_id": user_id, "now": now})
        return [Session(**row._mapping) for row in rows]

    async def count_not_ended(self, user_id: UUID, now: datetime) -> int:
        result = await self._connection.execute(_COUNT_NOT_ENDED, {"user_id": user_id, "now": now})
        count: int = result.scalar_one()
        return count

    async def lock_not_ended(self, user_id: UUID, now: datetime) -> list[Session]:
        rows = await self._connection.execute(_LOCK_NOT_ENDED, {"user_id": user_id, "now": now})
        return [Session(**row._mapping) for row in rows]

    async def is_open(self, session_id: UUID, now: datetime) -> bool:
        still = and_(sessions.c.ended_at.is_(None), sessions.c.expires_at > now)
        result = await self._connection.execute(select(sessions.c.id).where(sessions.c.id == session_id, still))
        return result.one_or_none() is not None

    async def end(self, session_id: UUID, reason: EndReason, now: datetime) -> None:
        await self._connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(ended_at=now, end_reason=reason)
        )

    async def add_refresh_token(self, token: RefreshToken) -> None:
        await self._connection.execute(_ADD_TOKEN, asdict(token))

    async def lock_chain(self, token_hash: bytes) -> Chain | None:
        # Lock first, so that the chain is read as a concurrent refresh has left it.
        if not self._database.is_sqlite:
            await self._connection.execute(_LOCK_OF_TOKEN, {"token_hash": token_hash})
        result = await self._connection.execute(_CHAIN, {"token_hash": token_hash})
        row = result.one_or_none()
        if row is None:
            return None
        values = iter(row)
        token, successor, session, user, head = ({name: next(values) for name in names} for names in _NAMES)
        return Chain(
            token=RefreshToken(**token),
            successor=RefreshToken(**successor) if successor["hash"] is not None else None,
            session=Session(**session),
            user=user_of(user),
            as_of=head["number"],
        )

    async def rotate(self, used: bytes, nonce: bytes, successor: RefreshToken) -> None:
        now = successor.created_at
        use = {"used": used, "now": now, "nonce": nonce, "successor": successor.hash}
        await self._connection.execute(_USE_TOKEN, use)
        await self.add_refresh_token(successor)
        await self._connection.execute(_USE_SESSION, {"used": successor.session_id, "now": now})
