"""Users who were deleted, while what they leave is being removed; how often sessions get refresh tokens."""

import sqlalchemy as sa
from alembic import op

from ostiary_chassis.sql import UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns. To the previous release, a deleted user is disabled, under an address that nobody has."""
    op.add_column("users", sa.Column("deleted_at", UtcDateTime))
    op.add_column("sessions", sa.Column("next_rotation_at", UtcDateTime))
