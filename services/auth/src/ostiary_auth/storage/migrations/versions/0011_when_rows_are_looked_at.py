"""When the pruning looks at rows that change often; space for their next versions in the same page."""

import sqlalchemy as sa
from alembic import op

from ostiary_chassis.sql import UtcDateTime

revision = "0011"
down_revision = "0010"

#: Percent of a page that new rows fill on PostgreSQL.
FILL_FACTORS = {"sessions": 85, "refresh_tokens": 85, "throttles": 50, "verifiers": 50}


def upgrade() -> None:
    """Add the columns. The rows that are there are looked at first."""
    for table in ("sessions", "refresh_tokens", "throttles"):
        long_ago = "1970-01-01 00:00:00.000000"
        op.add_column(table, sa.Column("check_at", UtcDateTime, nullable=False, server_default=long_ago))
    if op.get_bind().dialect.name == "postgresql":
        for table, percent in FILL_FACTORS.items():
            op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")
