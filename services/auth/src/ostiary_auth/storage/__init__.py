"""The domain's ports implemented on SQL."""
