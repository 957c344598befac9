"""The table of the audit log."""

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, String, Table, text

from ostiary_auth.storage.metadata import metadata
from ostiary_chassis.sql import UtcDateTime

#: In the words of the index, as neither database would see by a parameter that the index has the entry.
IS_CHECKPOINT = text("event IN ('audit_log.trimmed', 'audit_log.verified')")

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
    Index("ix_audit_log_checkpoints", "event", postgresql_where=IS_CHECKPOINT, sqlite_where=IS_CHECKPOINT),
)
