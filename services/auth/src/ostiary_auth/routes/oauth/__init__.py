"""OAuth over HTTP."""
