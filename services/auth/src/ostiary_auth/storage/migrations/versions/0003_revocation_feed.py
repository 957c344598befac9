"""The revocation log as a chain with a name; verifiers that follow it; receivers of its events."""

import secrets

import sqlalchemy as sa
from alembic import op

from ostiary_chassis.sql import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Begin the chain, and make the new tables."""
    with op.batch_alter_table("revocations") as revocations:
        revocations.add_column(sa.Column("digest", sa.LargeBinary(32), nullable=False, server_default=""))
    with op.batch_alter_table("revocation_head") as head:
        head.add_column(sa.Column("epoch", sa.String(64), nullable=False, server_default=""))
        head.add_column(sa.Column("digest", sa.LargeBinary(32), nullable=False, server_default=""))
    # What was logged before has no digests: it stays, and the hole after it keeps anybody from following the chain.
    bind = op.get_bind()
    begun = sa.text("UPDATE revocation_head SET epoch = :epoch, digest = :digest, number = number + :hole")
    logged = bind.execute(sa.text("SELECT COUNT(*) FROM revocations")).scalar_one()
    bind.execute(begun, {"epoch": secrets.token_hex(8), "digest": bytes(32), "hole": 1 if logged else 0})
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
