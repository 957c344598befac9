"""The audit log on SQL."""
