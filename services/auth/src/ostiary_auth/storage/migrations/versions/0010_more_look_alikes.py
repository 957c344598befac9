"""Keys of addresses in which more characters look like others."""

import sqlalchemy as sa
from alembic import op

from ostiary_auth.domain.accounts.emails import email_key
from ostiary_auth.domain.errors import InvalidEmail

revision = "0010"
down_revision = "0009"

_USERS = sa.table("users", sa.column("id", sa.Uuid), sa.column("email", sa.Text), sa.column("email_key", sa.String))

#: Addresses with other characters than those of ASCII; the keys of others are as they were.
_BYTES = {
    "postgresql": sa.func.octet_length(_USERS.c.email),
    "sqlite": sa.func.length(sa.cast(_USERS.c.email, sa.LargeBinary)),
}


def upgrade() -> None:
    """Compute the keys again. Of two accounts whose addresses look the same now, the other one keeps its old key."""
    connection = op.get_bind()
    is_beyond_ascii = _BYTES[connection.dialect.name] != sa.func.length(_USERS.c.email)
    for user_id, email, before in connection.execute(sa.select(_USERS).where(is_beyond_ascii)).all():
        after = _key(email, before)
        is_free = connection.scalar(sa.select(_USERS.c.id).where(_USERS.c.email_key == after)) is None
        if is_free:
            connection.execute(sa.update(_USERS).where(_USERS.c.id == user_id).values(email_key=after))


def _key(email: str, before: str) -> str:
    try:
        return before if before.startswith("deleted:") else email_key(email)
    except InvalidEmail:
        return before
