"""The keys that this process signs and verifies with."""

from collections.abc import Callable

from ostiary import KeySet, LocalKeys
from ostiary.errors import KeysUnavailable
from ostiary_auth.domain.keys.key_ring import KeyRing


class LocalKeyRing:
    """Holds the current keys: as a ring to sign with, and as a key set for this process's own verifier."""

    def __init__(self) -> None:
        #: Called after the keys have changed.
        self.on_change: Callable[[], None] = lambda: None
        self._ring: KeyRing | None = None
        self.public = LocalKeys()

    def use(self, ring: KeyRing) -> None:
        """Sign and verify with these keys from now on."""
        if ring is self._ring:
            return
        self.public.replace(KeySet.from_json(ring.document))
        self._ring = ring
        self.on_change()

    @property
    def current(self) -> KeyRing | None:
        """The current keys, or None before they are loaded."""
        return self._ring

    def ring(self) -> KeyRing:
        """Return the current keys. Raises KeysUnavailable before they are loaded."""
        if self._ring is None:
            raise KeysUnavailable
        return self._ring
