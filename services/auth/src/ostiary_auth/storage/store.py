"""The domain's store on SQL, the same statements on SQLite and PostgreSQL."""

from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ostiary_auth.domain.accounts import User
from ostiary_auth.domain.errors import EmailTaken
from ostiary_auth.domain.keys import StoredKey
from ostiary_auth.domain.sessions import EndReason, RefreshToken, Session
from ostiary_auth.storage.tables import refresh_tokens, sessions, signing_keys, users
from ostiary_chassis.sql import Database

_SESSION_COLUMNS = [column for column in sessions.c if column.name != "end_reason"]


class SqlTransaction:
    """A Transaction on a SQL connection; see the protocol for what each method promises."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        """Use an open transaction."""
        self._connection = connection
        self._database = database

    async def add_user(self, user: User) -> None:
        """Add a user. Raises EmailTaken."""
        try:
            await self._connection.execute(insert(users).values(**asdict(user)))
        except IntegrityError as error:
            raise EmailTaken from error

    async def user(self, user_id: UUID) -> User:
        """Return a user that is known to exist."""
        result = await self._connection.execute(select(users).where(users.c.id == user_id))
        return _user(result.one())

    async def user_by_email_key(self, email_key: str) -> User | None:
        """Return the user with this key."""
        result = await self._connection.execute(select(users).where(users.c.email_key == email_key))
        row = result.one_or_none()
        return _user(row) if row else None

    async def replace_password_hash(self, user_id: UUID, old: str, new: str) -> None:
        """Replace a user's password hash, if it is still the old one."""
        theirs = (users.c.id == user_id) & (users.c.password_hash == old)
        await self._connection.execute(update(users).where(theirs).values(password_hash=new))

    async def add_session(self, session: Session) -> None:
        """Add a session."""
        await self._connection.execute(insert(sessions).values(**asdict(session)))

    async def session(self, session_id: UUID) -> Session:
        """Return a session that is known to exist."""
        result = await self._connection.execute(select(*_SESSION_COLUMNS).where(sessions.c.id == session_id))
        return Session(**result.one()._mapping)

    async def live_sessions(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return and lock a user's live sessions, always in one order, so that two cannot block each other."""
        result = await self._connection.execute(
            select(*_SESSION_COLUMNS)
            .where(sessions.c.user_id == user_id, sessions.c.ended_at.is_(None), sessions.c.expires_at > now)
            .order_by(sessions.c.id)
            .with_for_update()
        )
        return [Session(**row._mapping) for row in result]

    async def end_session(self, session_id: UUID, reason: EndReason, now: datetime) -> None:
        """Mark a session as ended."""
        await self._connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(ended_at=now, end_reason=reason)
        )

    async def add_refresh_token(self, token: RefreshToken) -> None:
        """Add a refresh token."""
        await self._connection.execute(insert(refresh_tokens).values(**asdict(token)))

    async def refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        """Return the refresh token with this hash."""
        result = await self._connection.execute(select(refresh_tokens).where(refresh_tokens.c.hash == token_hash))
        row = result.one_or_none()
        return RefreshToken(**row._mapping) if row else None

    async def lock_refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        """Lock the session first and read the token after, so that what is read is what the winner left."""
        session_id = select(refresh_tokens.c.session_id).where(refresh_tokens.c.hash == token_hash)
        locked = await self._connection.execute(
            select(sessions.c.id).where(sessions.c.id == session_id.scalar_subquery()).with_for_update()
        )
        return await self.refresh_token(token_hash) if locked.one_or_none() else None

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

    async def signing_keys(self) -> list[StoredKey]:
        """Return all keys, the newest first."""
        result = await self._connection.execute(
            select(signing_keys).order_by(signing_keys.c.created_at.desc(), signing_keys.c.kid)
        )
        return [StoredKey(**row._mapping) for row in result]

    async def add_signing_key(self, key: StoredKey) -> None:
        """Add a key."""
        await self._connection.execute(insert(signing_keys).values(**asdict(key)))

    async def lock(self, name: str) -> None:
        """Let only one transaction past here, over all replicas."""
        await self._database.lock(self._connection, name)


def _user(row: Row[tuple[object, ...]]) -> User:
    values = dict(row._mapping)
    return User(**{**values, "roles": tuple(values["roles"])})
