"""The protocols of sources of keys and revocations, and the sources that are local to a process."""

from typing import Protocol, Self

from ostiary._keyset import KeySet
from ostiary._revocations import Revocations
from ostiary.errors import KeysUnavailable


class KeySource(Protocol):
    """Keys in memory. Reading them never blocks; they are refreshed between entering and leaving."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def current(self) -> KeySet:
        """Return the current keys, without I/O. Raises KeysUnavailable."""
        ...

    def report_unknown_key(self) -> None:
        """Report a token whose key is not in the current set. Does not block."""
        ...

    def report_new_keys(self) -> None:
        """Report that the issuer has announced keys other than the current ones. Does not block."""
        ...


class RevocationSource(Protocol):
    """Revocations in memory, kept up to date between entering and leaving."""

    revocations: Revocations

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class LocalKeys:
    """Keys that this process has itself: those of an issuer, or of a test. A KeySource."""

    def __init__(self, keys: KeySet | None = None) -> None:
        self._keys = keys

    def replace(self, keys: KeySet) -> None:
        self._keys = keys

    def current(self) -> KeySet:
        """Return the current keys. Raises KeysUnavailable if there are none yet."""
        if self._keys is None:
            raise KeysUnavailable
        return self._keys

    def report_unknown_key(self) -> None:
        """Do nothing: there is no other source."""

    def report_new_keys(self) -> None:
        """Do nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class LocalRevocations:
    """Revocations that this process knows itself: those of an issuer, or of a test. A RevocationSource."""

    def __init__(self) -> None:
        self.revocations = Revocations()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
