"""Alembic's entry point for the auth service."""

from ostiary_auth.storage.tables import metadata
from ostiary_chassis import migrations

migrations.run(metadata)
