"""Base64url without padding (RFC 7515 section 2)."""

from base64 import urlsafe_b64encode


def base64url(data: bytes) -> str:
    """Encode."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()
