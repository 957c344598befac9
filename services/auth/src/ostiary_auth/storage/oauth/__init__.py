"""OAuth clients on SQL."""
