"""The HTTP face of the auth service."""
