"""The SQL behind the profile service."""
