"""Whether a JWT is valid at a given time: PyJWT would read the clock itself."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def is_current(claims: Mapping[str, Any], now: datetime) -> bool:
    """Check `exp`, `nbf` and `iat` where present, without leeway (RFC 7519 sections 4.1.4 to 4.1.6)."""
    at = now.timestamp()
    try:
        expired = "exp" in claims and int(claims["exp"]) <= at
        early = any(int(claims[name]) > at for name in ("nbf", "iat") if name in claims)
    except (ValueError, TypeError, OverflowError):
        return False
    return not expired and not early
