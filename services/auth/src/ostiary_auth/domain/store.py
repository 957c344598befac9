"""What the domain needs of its storage."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ostiary_auth.domain.accounts import User
    from ostiary_auth.domain.keys import StoredKey
    from ostiary_auth.domain.sessions import EndReason, RefreshToken, Session


class Transaction(Protocol):
    """One transaction; what it did counts when it ends, all of it or nothing."""

    async def add_user(self, user: User) -> None:
        """Add a user. Raises EmailTaken."""

    async def user(self, user_id: UUID) -> User:
        """Return a user that is known to exist."""

    async def user_by_email_key(self, email_key: str) -> User | None:
        """Return the user with this key."""

    async def replace_password_hash(self, user_id: UUID, old: str, new: str) -> None:
        """Replace a user's password hash, if it is still the old one."""

    async def add_session(self, session: Session) -> None:
        """Add a session."""

    async def session(self, session_id: UUID) -> Session:
        """Return a session that is known to exist."""

    async def live_sessions(self, user_id: UUID, now: datetime) -> list[Session]:
        """Return and lock the sessions of a user that have neither ended nor reached their absolute limit."""

    async def end_session(self, session_id: UUID, reason: EndReason, now: datetime) -> None:
        """Mark a session as ended."""

    async def add_refresh_token(self, token: RefreshToken) -> None:
        """Add a refresh token."""

    async def refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        """Return the refresh token with this hash."""

    async def lock_refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        """Return the refresh token with this hash, and let nobody else touch its session until the end."""

    async def rotate(self, used: bytes, nonce: bytes, successor: RefreshToken) -> None:
        """Mark a token as used, add its successor, and note the session's use; all at the successor's creation time."""

    async def signing_keys(self) -> list[StoredKey]:
        """Return all keys, the newest first."""

    async def add_signing_key(self, key: StoredKey) -> None:
        """Add a key."""

    async def lock(self, name: str) -> None:
        """Let only one transaction past here, over all replicas, until it ends."""


class Store(Protocol):
    """Where transactions come from."""

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that only reads."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes; an exception rolls it back."""
