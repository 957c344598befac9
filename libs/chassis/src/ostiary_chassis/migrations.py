"""Schema migrations with Alembic. Imported only when there is something to migrate, as the import is slow.

Scripts form one line, and their names start with their revision: `versions/0002_what_it_does.py` is revision "0002".
"""

from pathlib import Path

import alembic.command
import alembic.config
import alembic.util
from alembic import context
from sqlalchemy import Connection, MetaData


class UnknownRevision(Exception):
    """The database's schema has a revision that is not among the scripts."""


def upgrade(connection: Connection, scripts: Path, version_table: str) -> None:
    """Run the scripts in a folder that have not run on the database yet. Raises UnknownRevision."""
    config = alembic.config.Config()
    # Alembic's settings are %-interpolated.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=version_table)
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise UnknownRevision(str(error)) from None


def run(metadata: MetaData) -> None:
    """Run migrations from a service's Alembic `env.py`. Offline mode and the `alembic` command are not supported."""
    connection = context.config.attributes["connection"]
    version_table = context.config.attributes["version_table"]
    context.configure(
        connection=connection, target_metadata=metadata, version_table=version_table, render_as_batch=True
    )
    with context.begin_transaction():
        context.run_migrations()
