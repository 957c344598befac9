"""Schema migrations with Alembic. Imported only when there is something to migrate, as the import is slow.

Scripts form one line, and their names start with their revision: `versions/0002_what_it_does.py` is revision "0002".
On PostgreSQL, each is a transaction of its own, whose statements may take as long as they need, but wait a second at
most for a lock; then the transaction is tried again.

A script expands the schema, so that the release before it goes on working: new columns have a default or take NULL,
and nothing is renamed or dropped. What is no longer used is dropped a release later, by a script that says
`needs_release = "0007"`: releases that do not know revision 0007 do not work any more. See `sql.schema`.

An index of a table that may be large is created by a script that does nothing else, with `create_index`.
"""

from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from alembic import context, op
from sqlalchemy import Connection, MetaData, text

_INVALID = text(
    "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "WHERE relname = :name AND pg_table_is_visible(pg_class.oid) AND NOT indisvalid"
)


def upgrade(connection: Connection, scripts: Path, revision_table: str, version_table: str) -> None:
    """Run the scripts in a folder that have not run on the database yet."""
    config = alembic.config.Config()
    # Alembic's settings are %-interpolated.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes.update(connection=connection, revision_table=revision_table, version_table=version_table)
    alembic.command.upgrade(config, "head")


def run(metadata: MetaData) -> None:
    """Run migrations from a service's Alembic `env.py`. Offline mode and the `alembic` command are not supported."""
    attributes = context.config.attributes
    connection, version_table = attributes["connection"], attributes["version_table"]

    def note_oldest_release(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:  # noqa: ARG001 - Alembic's names
        """Record the oldest release that works on the schema, in the script's transaction."""
        oldest = getattr(step.up_revision.module, "needs_release", None)
        if oldest is not None or not step.down_revision_ids:
            connection.execute(text(f"DELETE FROM {version_table}"))  # noqa: S608 - a constant
            statement = text(f"INSERT INTO {version_table} VALUES (:oldest)")  # noqa: S608 - a constant
            connection.execute(statement, {"oldest": oldest or step.up_revision_id})

    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=attributes["revision_table"],
        render_as_batch=True,
        transaction_per_migration=True,
        on_version_apply=note_oldest_release,
    )
    with context.begin_transaction():
        context.run_migrations()


def create_index(name: str, table: str, columns: list[str], *, unique: bool = False, where: str | None = None) -> None:
    """Create an index without keeping writers waiting; in a script that does nothing else.

    With `where`, it holds only the rows that meet that condition.

    On PostgreSQL that takes no transaction, so the script may be interrupted half-way: it is run again, and an index
    that was not completed is replaced.
    """
    some = text(where) if where is not None else None
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(name, table, columns, unique=unique, if_not_exists=True, sqlite_where=some)
        return
    with op.get_context().autocommit_block():
        bind = op.get_bind()
        lock_timeout = bind.scalar(text("SHOW lock_timeout"))
        # It waits for all open transactions, but nobody waits for it.
        op.execute("SET lock_timeout = 0")
        try:
            if bind.scalar(_INVALID, {"name": name}):
                op.drop_index(name, postgresql_concurrently=True, if_exists=True)
            op.create_index(
                name,
                table,
                columns,
                unique=unique,
                if_not_exists=True,
                postgresql_concurrently=True,
                postgresql_where=some,
            )
        finally:
            op.execute(f"SET lock_timeout = '{lock_timeout}'")
