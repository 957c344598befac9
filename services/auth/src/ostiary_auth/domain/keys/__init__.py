"""Signing keys, and how they are kept secret."""
