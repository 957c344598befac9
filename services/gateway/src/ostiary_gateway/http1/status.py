"""Status codes with a meaning to framing (RFC 9110 section 15)."""

#: Statuses (RFC 9110 section 15).
FIRST_FINAL = 200
NO_CONTENT, NOT_MODIFIED = 204, 304
WITHOUT_BODY = frozenset({*range(100, 200), NO_CONTENT})
