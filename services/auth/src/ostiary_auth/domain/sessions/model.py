"""Sessions and refresh tokens as they are stored, and how long they last."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context

LogoutScope = Literal["local", "others", "global"]
EndReason = Literal[
    "logout",
    "theft",
    "password_changed",
    "user_disabled",
    "user_deleted",
    "ended_by_admin",
    "token_revoked",
    "too_many",
    "log_restarted",
]


@dataclass(frozen=True, slots=True)
class Session:
    """A login on one device."""

    id: UUID
    user_id: UUID
    #: The client that its tokens are issued to.
    client_id: str
    user_agent: str | None
    #: The network address of the login.
    source: str | None
    created_at: datetime
    last_used_at: datetime
    #: The absolute limit; no refresh moves it.
    expires_at: datetime
    ended_at: datetime | None = None
    #: Of a browser's session, which has no refresh tokens but a secret.
    secret_hash: bytes | None = field(default=None, repr=False)
    #: Whether the browser keeps it when it is closed.
    persistent: bool = True
    #: When its next refresh token is due if it has had many (see `refresh_tokens`).
    next_rotation_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """The end of a session: why, when, and by whom."""

    session: Session
    reason: EndReason
    context: Context


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A stored refresh token. `used_at` and `successor_*` are set when it is used."""

    hash: bytes
    session_id: UUID
    created_at: datetime
    used_at: datetime | None = None
    successor_nonce: bytes | None = None
    successor_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A refresh token with its session and user."""

    token: RefreshToken
    session: Session
    user: User
    #: The number of the last revocation when this was read.
    as_of: int


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What an access token of a session states."""

    user: User
    session: Session
    scopes: tuple[str, ...]
    #: The number of the last revocation when this was decided: up to there, none revokes it.
    as_of: int


@dataclass(frozen=True, slots=True)
class Grant(Entitlement):
    """The result of a login or a refresh. `refresh_token` is the next one."""

    refresh_token: str


@dataclass(frozen=True, slots=True)
class BrowserGrant(Entitlement):
    """The result of a login in a browser. `credential` is what its session is presented by: `SID.SECRET`."""

    credential: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session may go unused, and how long it may last."""

    idle: timedelta
    absolute: timedelta

    def ends_at(self, session: Session) -> datetime:
        """Return when a session ends unless it is used."""
        return min(session.last_used_at + self.idle, session.expires_at)

    def alive(self, session: Session, now: datetime) -> bool:
        """Return whether a session can still be refreshed."""
        return session.ended_at is None and now < self.ends_at(session)
