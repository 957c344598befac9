"""Clients, the audit and revocation logs, throttles, sealed secrets; states of keys; where sessions come from."""

import sqlalchemy as sa
from alembic import op

from ostiary_chassis.sql import UtcDateTime

revision = "0002"
down_revision = "0001"
needs_release = "0002"


def upgrade() -> None:
    """Make the new tables and columns."""
    with op.batch_alter_table("sessions") as sessions:
        sessions.add_column(sa.Column("client_id", sa.String(64), nullable=False, server_default="first-party"))
        sessions.add_column(sa.Column("source", sa.String(45)))
        sessions.create_index("ix_sessions_last_used_at", ["last_used_at"])
        sessions.create_index("ix_sessions_expires_at", ["expires_at"])
        sessions.create_index("ix_sessions_ended_at", ["ended_at"])
    op.create_index("ix_refresh_tokens_created_at", "refresh_tokens", ["created_at"])
    _give_keys_states()
    _create_tables()
    for table, column in (
        ("used_assertions", "expires_at"),
        ("audit_log", "actor"),
        ("audit_log", "subject"),
        ("revocations", "target"),
        ("revocations", "expires_at"),
        ("throttles", "expires_at"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column])
    head = sa.table("revocation_head", sa.column("id"), sa.column("number"))
    op.bulk_insert(head, [{"id": 1, "number": 0}])


def _give_keys_states() -> None:
    """Let the newest key sign, as it did, and count the others as retired."""
    with op.batch_alter_table("signing_keys") as keys:
        keys.add_column(sa.Column("state", sa.String(8), nullable=False, server_default="retired"))
        keys.add_column(sa.Column("since", UtcDateTime))
    op.execute("UPDATE signing_keys SET since = created_at")
    op.execute(
        "UPDATE signing_keys SET state = 'signing' WHERE created_at = (SELECT MAX(created_at) FROM signing_keys)"
    )
    with op.batch_alter_table("signing_keys") as keys:
        keys.alter_column("since", existing_type=UtcDateTime, nullable=False)


def _create_tables() -> None:
    op.create_table(
        "sealed_secrets",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sealed_secrets"),
    )
    op.create_table(
        "clients",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("grants", sa.JSON, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("audiences", sa.JSON, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(32)),
        sa.Column("old_secret_hash", sa.LargeBinary(32)),
        sa.Column("old_secret_until", UtcDateTime),
        sa.Column("jwks", sa.JSON),
        sa.Column("disabled_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_clients"),
    )
    op.create_table(
        "used_assertions",
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_used_assertions"),
    )
    op.create_table(
        "audit_log",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("subject", sa.String(80)),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("personal", sa.JSON),
        sa.Column("personal_digest", sa.LargeBinary(32)),
        sa.Column("mac", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_log"),
    )
    op.create_table(
        "revocations",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("target", sa.String(128), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_revocations"),
    )
    op.create_table(
        "revocation_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revocation_head"),
    )
    op.create_table(
        "throttles",
        sa.Column("key", sa.LargeBinary(32), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("blocked_until", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_throttles"),
    )
