"""Devices: what people see in their list of sessions, and the mark of one that somebody has logged in with.

A login leaves a device token behind (in a cookie). It proves nothing about who is there and opens nothing: a
later login that shows it is merely not held up by what strangers do to the account (see `throttle`).
"""

import hashlib
import hmac
import re
import secrets
from uuid import UUID

from ostiary_auth.domain.base64url import base64url

#: Bytes of randomness in a device token's id.
DEVICE_ID_BYTES = 16

#: Characters of a label.
MAX_LABEL_CHARACTERS = 64

# Browsers name those that they want to be taken for, too; the most specific one comes first.
_PROGRAMS = (
    (re.compile(r"\bEdg(?:e|A|iOS)?/"), "Edge"),
    (re.compile(r"\b(?:OPR|Opera)/"), "Opera"),
    (re.compile(r"\bSamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"\b(?:Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"\b(?:Chrome|CriOS|Chromium)/"), "Chrome"),
    (re.compile(r"\bVersion/\S+ (?:Mobile/\S+ )?Safari/"), "Safari"),
)
_SYSTEMS = (
    (re.compile(r"\biPhone\b"), "iPhone"),
    (re.compile(r"\biPad\b"), "iPad"),
    (re.compile(r"\bAndroid\b"), "Android"),
    (re.compile(r"\bWindows\b"), "Windows"),
    (re.compile(r"\bMac OS X\b|\bMacintosh\b"), "macOS"),
    (re.compile(r"\bCrOS\b"), "ChromeOS"),
    (re.compile(r"\bLinux\b"), "Linux"),
)
# The first product of a User-Agent (RFC 9110 section 10.1.5), without its version.
_PRODUCT = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)")


def label(user_agent: str | None) -> str | None:
    """Return a short name of the device that a User-Agent speaks of, as in `Firefox on Linux`."""
    if not user_agent:
        return None
    program = next((name for pattern, name in _PROGRAMS if pattern.search(user_agent)), None)
    if program is None:
        product = _PRODUCT.match(user_agent)
        program = product[1] if product and product[1] != "Mozilla" else None
    system = next((name for pattern, name in _SYSTEMS if pattern.search(user_agent)), None)
    return " on ".join(part for part in (program, system) if part)[:MAX_LABEL_CHARACTERS] or None


class DeviceTokens:
    """Makes and recognises device tokens: `id.mac`, where the MAC binds the id to one account."""

    def __init__(self, key: bytes) -> None:
        """Use a secret key."""
        self._key = key

    def issue(self, user_id: UUID) -> str:
        """Return a new token for a device that this user has logged in with."""
        device_id = secrets.token_urlsafe(DEVICE_ID_BYTES)
        return f"{device_id}.{self._mac(device_id, user_id)}"

    def recognise(self, token: str | None, user_id: UUID | None) -> str | None:
        """Return the id of the device if the token is one of this user's."""
        device_id, _, mac = (token or "").partition(".")
        # The same work without an account, so that timing does not tell.
        expected = self._mac(device_id, user_id or UUID(int=0))
        matches = hmac.compare_digest(mac.encode(), expected.encode())
        return device_id if matches and user_id is not None else None

    def _mac(self, device_id: str, user_id: UUID) -> str:
        digest = hmac.digest(self._key, f"{device_id}.{user_id}".encode(), hashlib.sha256)
        return base64url(digest)
