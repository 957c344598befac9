"""An index of the few entries of the audit log that say how far it was trimmed or verified."""

from ostiary_chassis.migrations import create_index

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the index."""
    checkpoints = "event IN ('audit_log.trimmed', 'audit_log.verified')"
    create_index("ix_audit_log_checkpoints", "audit_log", ["event"], where=checkpoints)
