"""Receipts: proofs that the revocation log once ended with a certain entry.

Whoever follows the log gets one with each answer, and shows it with the next poll. A log that lacks the entry is not
the one that was followed: its database was restored from a backup, or lost commits. Only this service can make a
receipt, so nobody else can claim that.
"""

import hashlib
import hmac

from ostiary import _base64url
from ostiary_auth.domain.revocation.model import LogHead

#: What sets the key of receipts apart from the one that it is derived from.
_PURPOSE = b"receipts of the revocation log"


class Receipts:
    """Makes and reads receipts. Their key is derived from `key`."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, _PURPOSE, hashlib.sha256)

    def make(self, head: LogHead) -> str:
        content = f"{head.epoch}.{head.number}.{_base64url.encode(head.digest).decode()}"
        return f"{content}.{self._mac(content)}"

    def read(self, receipt: str) -> LogHead | None:
        """Return where the log once ended, or None if this is no receipt of ours."""
        content, _, mac = receipt.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(content).encode()):
            return None
        epoch, number, digest = content.rsplit(".", 2)
        return LogHead(epoch, int(number), _base64url.decode(digest.encode()))

    def _mac(self, content: str) -> str:
        return _base64url.encode(hmac.digest(self._key, content.encode(), hashlib.sha256)).decode()
