"""Sessions on SQL."""
