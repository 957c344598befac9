"""Tables of OAuth clients."""

from sqlalchemy import JSON, Column, LargeBinary, String, Table

from ostiary_auth.storage.metadata import metadata
from ostiary_chassis.sql import UtcDateTime

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
