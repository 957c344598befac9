"""Tables of sessions."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, LargeBinary, String, Table, Uuid

from ostiary_auth.storage.metadata import metadata
from ostiary_auth.storage.pruned import check_at
from ostiary_chassis.sql import UtcDateTime

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("client_id", String(64), nullable=False),
    Column("user_agent", String(256)),
    Column("source", String(45)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("end_reason", String(16)),
    Column("secret_hash", LargeBinary(32)),
    Column("persistent", Boolean, nullable=False),
    Column("next_rotation_at", UtcDateTime),
    check_at(),
    # Of the user's sessions, those that are open are counted at each login.
    Index("ix_sessions_user_id_ended_at", "user_id", "ended_at"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Column("successor_nonce", LargeBinary(32)),
    Column("successor_hash", LargeBinary(32)),
    check_at(),
    Index("ix_refresh_tokens_session_id", "session_id"),
)
