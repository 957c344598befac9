"""No indexes that each use of a row changes, and none that another one begins with."""

from alembic import op

revision = "0013"
down_revision = "0012"

UNUSED = {
    "sessions": ["user_id", "last_used_at", "expires_at", "ended_at"],
    "refresh_tokens": ["created_at"],
    "throttles": ["expires_at"],
    "verifiers": ["live_until"],
}


def upgrade() -> None:
    """Drop them. The previous release works without them; only its pruning is slow."""
    for table, columns in UNUSED.items():
        for column in columns:
            op.drop_index(f"ix_{table}_{column}", table, if_exists=True)
