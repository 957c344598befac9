"""Sessions of browsers: their secrets, and whether they end with the browser."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
needs_release = "0004"


def upgrade() -> None:
    """Add the columns. Replicas of the previous release may go on inserting rows without them."""
    with op.batch_alter_table("sessions") as sessions:
        sessions.add_column(sa.Column("secret_hash", sa.LargeBinary(32)))
        sessions.add_column(sa.Column("persistent", sa.Boolean, nullable=False, server_default=sa.true()))
