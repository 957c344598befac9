"""The revocation log as a chain with a name; verifiers that follow it; receivers of its events."""

import math
import secrets
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

from ostiary.feed import EVERYTHING, GENESIS, Kind, Revocation, chain
from ostiary_chassis.sql import UtcDateTime

revision = "0003"
down_revision = "0002"
needs_release = "0003"

#: The longest life of an access token, and a minute.
KEPT = timedelta(minutes=61)


def upgrade() -> None:
    """Begin the chain, and make the new tables."""
    bind = op.get_bind()
    had_some = bind.execute(sa.text("SELECT COUNT(*) FROM revocations")).scalar_one() > 0
    # They have no place in a chain. What they hit, and more, is hit by the entry that comes instead.
    op.execute("DELETE FROM revocations")
    with op.batch_alter_table("revocations") as revocations:
        revocations.add_column(sa.Column("digest", sa.LargeBinary(32), nullable=False))
    with op.batch_alter_table("revocation_head") as head:
        head.add_column(sa.Column("epoch", sa.String(64), nullable=False, server_default=""))
        head.add_column(sa.Column("digest", sa.LargeBinary(32), nullable=False, server_default=""))
    begun = sa.text("UPDATE revocation_head SET epoch = :epoch, digest = :digest")
    bind.execute(begun, {"epoch": secrets.token_hex(8), "digest": GENESIS})
    with op.batch_alter_table("revocation_head") as head:
        head.alter_column("epoch", server_default=None)
        head.alter_column("digest", server_default=None)
    if had_some:
        _revoke_all()
    _create_tables()


def _revoke_all() -> None:
    bind = op.get_bind()
    number = bind.execute(sa.text("SELECT number FROM revocation_head")).scalar_one() + 1
    now = datetime.now(UTC)
    expires_at = now + KEPT
    digest = chain(GENESIS, Revocation(number, Kind.ALL, EVERYTHING, math.ceil(expires_at.timestamp())))
    table = sa.table(
        "revocations",
        sa.column("number"),
        sa.column("kind"),
        sa.column("target"),
        sa.column("at", UtcDateTime),
        sa.column("expires_at", UtcDateTime),
        sa.column("digest"),
    )
    row = {"number": number, "kind": "all", "target": EVERYTHING, "at": now, "expires_at": expires_at, "digest": digest}
    op.bulk_insert(table, [row])
    bind.execute(sa.text("UPDATE revocation_head SET number = :number, digest = :digest"), row)


def _create_tables() -> None:
    op.create_table(
        "verifiers",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("acknowledged", sa.BigInteger, nullable=False),
        sa.Column("keys", sa.String(64), nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sa.Column("live_until", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verifiers"),
    )
    op.create_index("ix_verifiers_live_until", "verifiers", ["live_until"])
    op.create_table(
        "event_receivers",
        sa.Column("client_id", sa.String(64), nullable=False),
        sa.Column("acknowledged", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("client_id", name="pk_event_receivers"),
    )
