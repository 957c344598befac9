"""The auth service verifies tokens like everybody else, only that its keys are its own."""

from typing import Self

from ostiary import KeySet
from ostiary.errors import KeysUnavailable
from ostiary_auth.domain.keys import KeyRing


class OwnKeys:
    """The keys of this process: the ring that signs and, of the same keys, the set that verifies. A KeySource."""

    def __init__(self) -> None:
        """Start without keys."""
        self._ring: KeyRing | None = None
        self._public: KeySet | None = None

    def use(self, ring: KeyRing) -> None:
        """Sign and verify with these keys from now on."""
        self._public = KeySet.from_json(ring.jwks())
        self._ring = ring

    def ring(self) -> KeyRing:
        """Return the keys to sign with. Raises KeysUnavailable."""
        if self._ring is None:
            raise KeysUnavailable
        return self._ring

    def current(self) -> KeySet:
        """Return the keys to verify with. Raises KeysUnavailable."""
        if self._public is None:
            raise KeysUnavailable
        return self._public

    def report_unknown_key(self) -> None:
        """Do nothing: there is nobody to ask but ourselves."""

    async def __aenter__(self) -> Self:
        """Do nothing: the keys are set from outside."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""
