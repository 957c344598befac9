"""Alembic's entry point for the auth service."""

from ostiary_auth.storage.schema import metadata
from ostiary_chassis import migrations

migrations.run(metadata)
