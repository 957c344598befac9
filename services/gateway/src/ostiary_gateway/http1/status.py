"""Status codes that affect framing (RFC 9110 section 15)."""

from typing import Final

FIRST_FINAL: Final = 200
FIRST_REDIRECTION: Final = 300
NO_CONTENT: Final = 204
SEE_OTHER: Final = 303
NOT_MODIFIED: Final = 304

#: Responses with these have neither a body nor a length (RFC 9110 section 8.6).
WITHOUT_BODY: Final = frozenset({*range(100, 200), NO_CONTENT})
