"""The latest time that the database's clock has shown."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from ostiary_chassis.sql import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table. Replicas of the previous release neither know nor need it."""
    table = op.create_table(
        "database_time",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("latest", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_database_time"),
    )
    # The beginning of time: the first replica stores what the clock shows.
    op.bulk_insert(table, [{"id": 1, "latest": datetime.fromtimestamp(0, UTC)}])
