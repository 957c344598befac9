"""Request methods by what they do (RFC 9110 section 9.2)."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
IDEMPOTENT = SAFE | {"PUT", "DELETE"}
