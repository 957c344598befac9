"""Tables of keys and secrets."""

from sqlalchemy import Column, LargeBinary, String, Table

from ostiary_auth.storage.metadata import metadata
from ostiary_chassis.sql import UtcDateTime

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
