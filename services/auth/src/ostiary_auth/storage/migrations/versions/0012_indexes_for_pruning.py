"""Indexes by which the pruning finds what to look at."""

from ostiary_chassis.migrations import create_index

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the indexes."""
    for table in ("sessions", "refresh_tokens", "throttles"):
        create_index(f"ix_{table}_check_at", table, ["check_at"])
