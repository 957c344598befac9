"""The revocation feed, security events and verifiers over HTTP."""
