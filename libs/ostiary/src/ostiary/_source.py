"""Where a verifier takes its keys and revocations from."""

from typing import Protocol, Self

from ostiary._keyset import KeySet
from ostiary._revocations import Revocations
from ostiary.errors import KeysUnavailable


class KeySource(Protocol):
    """Keys held in memory. Asking never waits; whatever keeps them fresh runs between entering and leaving."""

    async def __aenter__(self) -> Self:
        """Start keeping keys."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        ...

    def current(self) -> KeySet:
        """Return the keys held now, without I/O. Raises KeysUnavailable."""
        ...

    def report_unknown_key(self) -> None:
        """Say that a token named a key that the current set does not have. Does not wait."""
        ...

    def report_new_keys(self) -> None:
        """Say that the issuer itself has announced other keys than the current ones. Does not wait."""
        ...


class RevocationSource(Protocol):
    """Revocations held in memory, and kept up to date between entering and leaving."""

    revocations: Revocations

    async def __aenter__(self) -> Self:
        """Start keeping revocations."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        ...


class LocalKeys:
    """Keys that this process has itself: an issuer's own, or a test's. A KeySource."""

    def __init__(self, keys: KeySet | None = None) -> None:
        """Hold `keys`, or none yet."""
        self._keys = keys

    def replace(self, keys: KeySet) -> None:
        """Hold these keys from now on."""
        self._keys = keys

    def current(self) -> KeySet:
        """Return the keys held now. Raises KeysUnavailable if none were given yet."""
        if self._keys is None:
            raise KeysUnavailable
        return self._keys

    def report_unknown_key(self) -> None:
        """Do nothing: there is nobody else to ask."""

    def report_new_keys(self) -> None:
        """Do nothing."""

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""


class LocalRevocations:
    """Revocations that this process knows of by itself: an issuer's own, or a test's. A RevocationSource."""

    def __init__(self) -> None:
        """Start with none."""
        self.revocations = Revocations()

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""
