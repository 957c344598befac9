"""An index that finds the open sessions of a user among many that have ended."""

from ostiary_chassis.migrations import create_index

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the index."""
    create_index("ix_sessions_user_id_ended_at", "sessions", ["user_id", "ended_at"])
