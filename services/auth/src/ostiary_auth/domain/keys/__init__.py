"""Signing keys, their rotation, and encryption at rest."""
