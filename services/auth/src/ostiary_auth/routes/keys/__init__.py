"""Signing keys over HTTP."""
