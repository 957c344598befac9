"""A cache of verified tokens, bounded; those that were not used lately go first.

The key of an entry is the SHA-256 of the whole token, so that memory holds no usable tokens. An entry
states that signature and claims were valid under one key set. What can change later (time, keys,
revocations) is checked on every hit.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from ostiary._keyset import KeySet
from ostiary._revocations import Names, Revocations
from ostiary._source import KeySource
from ostiary._token import VerifiedToken

#: Entries that are spared for one that is evicted, at most: where all are in use, one has to go.
MAX_SPARED = 8


@dataclass(frozen=True, slots=True)
class AcceptedIssuer:
    """An issuer, its rules, and the sources of its keys and revocations."""

    name: str
    audience: str
    leeway: float
    source: KeySource
    #: None without a source of revocations.
    revocations: Revocations | None


@dataclass(slots=True)
class CacheEntry:
    """A token, its issuer, the key set that verified it, and the revocations that it was last checked against."""

    token: VerifiedToken
    issuer: AcceptedIssuer
    keys: KeySet
    #: The version of the issuer's revocations at the last check.
    checked: int = -1
    #: Whether it was used since it came, or since it was last spared.
    used: bool = False
    _names: Names | None = None

    def names(self) -> Names:
        """Return the names under which the token can be revoked, made on first use."""
        if self._names is None:
            self._names = Names(self.token)
        return self._names


def cache_key(token: str) -> bytes:
    """Return a token's key in the cache."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class TokenCache:
    """A cache of `size` entries. Thread-safe.

    The oldest entry goes first, but one that was used since it came gets a second chance. To note a use in the entry
    itself is cheaper than to move it in a list of all by their last use: of a million tokens, its neighbours in that
    list are in no cache of the processor.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[bytes, CacheEntry] = OrderedDict()
        # The interpreter's lock, where there is one, covers single steps, and `put` is several.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> CacheEntry | None:
        """Return an entry, which counts as used."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.used = True
        return entry

    def put(self, key: bytes, entry: CacheEntry) -> None:
        """Add an entry, and evict one that was not used lately if the cache is full."""
        with self._lock:
            if len(self._entries) >= self._size and key not in self._entries:
                self._evict()
            self._entries[key] = entry

    def drop(self, key: bytes) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def _evict(self) -> None:
        for _ in range(MAX_SPARED):
            key, entry = self._entries.popitem(last=False)
            if not entry.used:
                return
            entry.used = False
            self._entries[key] = entry
        self._entries.popitem(last=False)
