"""Alembic's entry point for the profile service."""

from ostiary_chassis import migrations
from ostiary_profile.storage.tables import metadata

migrations.run(metadata)
