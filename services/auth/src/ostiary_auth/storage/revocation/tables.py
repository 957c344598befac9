"""Tables of the revocation log and its readers."""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table

from ostiary_auth.storage.metadata import metadata
from ostiary_chassis.sql import UtcDateTime

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

#: The log's name and the number of its last entry: entries are pruned, and numbers are not reused.
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
    Column("id", String(200), primary_key=True),
    Column("acknowledged", BigInteger, nullable=False),
    Column("keys", String(64), nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    # Not indexed: it changes all the time, and there are few rows.
    Column("live_until", UtcDateTime, nullable=False),
)

event_receivers = Table(
    "event_receivers",
    metadata,
    Column("client_id", String(64), primary_key=True),
    Column("acknowledged", BigInteger, nullable=False),
)
