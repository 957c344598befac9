"""Ids of verifiers with their client and the replica that they poll."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Widen the column. The previous release takes a verifier that polls two replicas for two."""
    with op.batch_alter_table("verifiers") as verifiers:
        verifiers.alter_column("id", existing_type=sa.String(64), existing_nullable=False, type_=sa.String(200))
