"""Schema migrations with Alembic. It is only imported when there is something to migrate: that saves a start its time.

Scripts form one line and are named after their revision: `versions/0002_what_it_does.py` is revision "0002".
"""

from pathlib import Path

import alembic.command
import alembic.config
import alembic.util
from alembic import context
from sqlalchemy import Connection, MetaData


class UnknownRevision(Exception):
    """The schema in the database is at a revision that the scripts do not have."""


def upgrade(connection: Connection, scripts: Path, version_table: str) -> None:
    """Run the scripts in a folder that the database behind `connection` has not seen. Raises UnknownRevision."""
    config = alembic.config.Config()
    # Alembic's settings are %-interpolated.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=version_table)
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise UnknownRevision(str(error)) from None


def run(metadata: MetaData) -> None:
    """Be the body of a service's Alembic `env.py`; offline mode and the `alembic` command line have no use here."""
    connection = context.config.attributes["connection"]
    version_table = context.config.attributes["version_table"]
    context.configure(
        connection=connection, target_metadata=metadata, version_table=version_table, render_as_batch=True
    )
    with context.begin_transaction():
        context.run_migrations()
