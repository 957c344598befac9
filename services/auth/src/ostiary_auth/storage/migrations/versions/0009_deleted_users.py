"""An index that finds the few users who were deleted, and what they leave not yet removed."""

from ostiary_chassis.migrations import create_index

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the index."""
    create_index("ix_users_deleted_at", "users", ["deleted_at"], where="deleted_at IS NOT NULL")
