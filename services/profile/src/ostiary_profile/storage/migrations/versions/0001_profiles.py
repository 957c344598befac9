"""Profiles."""

import sqlalchemy as sa
from alembic import op

from ostiary_chassis.sql import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "profiles",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("display_name", sa.String(100)),
        sa.Column("bio", sa.Text),
        sa.Column("website", sa.Text),
        sa.Column("revision", sa.String(32), nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_profiles"),
    )
