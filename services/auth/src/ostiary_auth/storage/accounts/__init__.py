"""Accounts on SQL."""
