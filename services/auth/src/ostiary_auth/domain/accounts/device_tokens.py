"""Device tokens: marks of devices from which an account's owner has logged in before.

A login leaves one behind, in a cookie. It authenticates nobody; a later login that presents it is merely not throttled
by what strangers do to the account (see `attempts`).
"""

import hashlib
import hmac
import secrets
from uuid import UUID

from jwt.utils import base64url_encode

#: Bytes of randomness in a device token's id.
DEVICE_ID_BYTES = 16


class DeviceTokens:
    """Issues and recognises device tokens. A token is `id.mac`; the MAC binds the id to one account."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, user_id: UUID) -> str:
        device_id = secrets.token_urlsafe(DEVICE_ID_BYTES)
        return f"{device_id}.{self._mac(device_id, user_id)}"

    def recognise(self, token: str | None, user_id: UUID | None) -> str | None:
        """Return the device's id if the token was issued to this user."""
        device_id, _, mac = (token or "").partition(".")
        # The same work without an account, so that timing does not reveal whether one exists.
        expected = self._mac(device_id, user_id or UUID(int=0))
        matches = hmac.compare_digest(mac.encode(), expected.encode())
        return device_id if matches and user_id is not None else None

    def _mac(self, device_id: str, user_id: UUID) -> str:
        digest = hmac.digest(self._key, f"{device_id}.{user_id}".encode(), hashlib.sha256)
        return base64url_encode(digest).decode()
