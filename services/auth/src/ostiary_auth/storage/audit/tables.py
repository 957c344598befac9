"""The table of the audit log."""

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, String, Table

from ostiary_auth.storage.metadata import metadata
from ostiary_chassis.sql import UtcDateTime

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
