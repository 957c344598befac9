"""The revocation log, the feed that verifiers follow, and how far each verifier is."""
