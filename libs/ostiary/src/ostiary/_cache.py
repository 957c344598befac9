"""Tokens that were verified before: a bounded memory, the least recently used go first.

The name of an entry is SHA-256 of the whole token, so that memory holds no usable tokens. An entry
says that signature and claims were good, under one key set; everything that can change since (time,
keys, and what else the verifier asks) is looked at again on every hit.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from ostiary._keyset import KeySet
from ostiary._revocations import Names, Revocations, names_of
from ostiary._source import KeySource
from ostiary._token import VerifiedToken


@dataclass(frozen=True, slots=True)
class AcceptedIssuer:
    """An issuer, its rules, and where its keys are held."""

    name: str
    audience: str
    leeway: float
    source: KeySource
    #: None for an issuer whose revocations nobody follows.
    revocations: Revocations | None


@dataclass(slots=True)
class CacheEntry:
    """A token, its issuer, the key set that verified it, and the revocations that it was last held against."""

    token: VerifiedToken
    issuer: AcceptedIssuer
    keys: KeySet
    #: The version of the issuer's revocations then.
    checked: int = -1
    _names: Names | None = None

    def names(self) -> Names:
        """Return the names under which the token can be revoked; made when something like it has been."""
        if self._names is None:
            self._names = names_of(self.token)
        return self._names


def cache_key(token: str) -> bytes:
    """Return the name of a token's entry."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class TokenCache:
    """A least-recently-used memory of `size` entries. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        """Make an empty memory."""
        self._size = size
        self._entries: OrderedDict[bytes, CacheEntry] = OrderedDict()
        # Each call below is several steps; the interpreter's lock, where there is one, covers single steps.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def get(self, name: bytes) -> CacheEntry | None:
        """Return an entry and make it the most recently used."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                self._entries.move_to_end(name)
            return entry

    def put(self, name: bytes, entry: CacheEntry) -> None:
        """Add an entry, and drop the least recently used one if there are too many."""
        with self._lock:
            self._entries[name] = entry
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def drop(self, name: bytes) -> None:
        """Remove an entry, if it is there."""
        with self._lock:
            self._entries.pop(name, None)
