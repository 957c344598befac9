"""The body of every service's Alembic `env.py`: migrations run on the connection that Database.migrate hands over."""

from alembic import context
from sqlalchemy import MetaData


def run(metadata: MetaData) -> None:
    """Run the migrations; offline mode and the `alembic` command line have no use here."""
    connection = context.config.attributes["connection"]
    version_table = context.config.attributes["version_table"]
    context.configure(
        connection=connection, target_metadata=metadata, version_table=version_table, render_as_batch=True
    )
    with context.begin_transaction():
        context.run_migrations()
