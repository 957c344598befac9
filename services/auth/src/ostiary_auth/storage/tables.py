"""The tables of the auth service."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
)

from ostiary_auth.domain.accounts.emails import MAX_EMAIL_KEY_CHARACTERS
from ostiary_chassis.sql import UtcDateTime

#: Constraints have names, so that later migrations can change them on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

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
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("client_id", String(64), nullable=False),
    Column("user_agent", String(256)),
    Column("source", String(45)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime, nullable=False, index=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("ended_at", UtcDateTime, index=True),
    Column("end_reason", String(16)),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("used_at", UtcDateTime),
    Column("successor_nonce", LargeBinary(32)),
    Column("successor_hash", LargeBinary(32)),
    Index("ix_refresh_tokens_session_id", "session_id"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(128), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sealed_private_key", LargeBinary, nullable=False),
)

sealed_secrets = Table(
    "sealed_secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

clients = Table(
    "clients",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("grants", JSON, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("audiences", JSON, nullable=False),
    Column("secret_hash", LargeBinary(32)),
    Column("old_secret_hash", LargeBinary(32)),
    Column("old_secret_until", UtcDateTime),
    Column("jwks", JSON(none_as_null=True)),
    Column("disabled_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
)

used_assertions = Table(
    "used_assertions",
    metadata,
    Column("hash", LargeBinary(32), primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(64), nullable=False),
    Column("actor", String(80), nullable=False, index=True),
    Column("subject", String(80), index=True),
    Column("facts", JSON, nullable=False),
    Column("personal", JSON(none_as_null=True)),
    Column("personal_digest", LargeBinary(32)),
    Column("mac", LargeBinary(32), nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("target", String(128), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False),
)

#: The log's name, and the number of the last revocation; revocations are pruned, and no number is given twice.
revocation_head = Table(
    "revocation_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("epoch", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
)

verifiers = Table(
    "verifiers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("acknowledged", BigInteger, nullable=False),
    Column("keys", String(64), nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("live_until", UtcDateTime, nullable=False, index=True),
)

event_receivers = Table(
    "event_receivers",
    metadata,
    Column("client_id", String(64), primary_key=True),
    Column("acknowledged", BigInteger, nullable=False),
)

throttles = Table(
    "throttles",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("blocked_until", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)
