"""Signing keys on SQL."""
