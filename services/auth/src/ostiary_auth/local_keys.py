"""The keys of this process: the ring that signs and, of the same keys, the set that verifies."""

from collections.abc import Callable

from ostiary import KeySet, LocalKeys
from ostiary.errors import KeysUnavailable
from ostiary_auth.domain.keys.key_ring import KeyRing


class LocalKeyRing:
    """The auth service verifies tokens like everybody else, only that it need not fetch the keys."""

    def __init__(self) -> None:
        """Start without keys."""
        #: Called when other keys come into use.
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
        """The keys in use, if they have been loaded."""
        return self._ring

    def ring(self) -> KeyRing:
        """Return the keys to sign with. Raises KeysUnavailable before they are loaded."""
        if self._ring is None:
            raise KeysUnavailable
        return self._ring
