"""The complete schema: importing this module registers all tables in `metadata`."""

from ostiary_auth.storage.metadata import metadata

__all__ = ["metadata"]
