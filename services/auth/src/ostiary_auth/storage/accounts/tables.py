"""Tables of accounts."""

from sqlalchemy import JSON, Column, Index, Integer, LargeBinary, String, Table, Uuid, text

from ostiary_auth.domain.accounts.emails import MAX_EMAIL_KEY_CHARACTERS
from ostiary_auth.storage.metadata import metadata
from ostiary_auth.storage.pruned import check_at
from ostiary_chassis.sql import UtcDateTime

_DELETED = text("deleted_at IS NOT NULL")

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", String(320), nullable=False),
    Column("email_key", String(MAX_EMAIL_KEY_CHARACTERS), nullable=False, unique=True),
    Column("display_name", String(100)),
    Column("password_hash", String(255), nullable=False),
    Column("roles", JSON, nullable=False),
    Column("disabled_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Index("ix_users_deleted_at", "deleted_at", postgresql_where=_DELETED, sqlite_where=_DELETED),
)

throttles = Table(
    "throttles",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("blocked_until", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    check_at(),
)
