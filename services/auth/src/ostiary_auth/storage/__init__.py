"""The SQL behind the auth service."""
