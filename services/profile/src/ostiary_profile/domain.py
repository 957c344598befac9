"""User profiles. Each user has one, which is empty until it is written.

ProfileError
+-- ProfileNotFound
+-- ProfileChanged
"""

import secrets
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Protocol


class ProfileError(Exception):
    """The base of this service's errors."""

    code: ClassVar[str]
    detail: ClassVar[str]


class ProfileNotFound(ProfileError):
    """The profile was never written."""

    code = "profile_not_found"
    detail = "No profile with this id."


class ProfileChanged(ProfileError):
    """The profile has changed since the caller read it."""

    code = "profile_changed"
    detail = "The profile has changed since it was read; read it again and repeat the change."


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. Each change assigns a new `revision`."""

    user_id: str
    display_name: str | None = None
    bio: str | None = None
    website: str | None = None
    revision: str = "empty"
    updated_at: datetime | None = None


class Transaction(Protocol):
    """A transaction on the store."""

    async def get(self, user_id: str) -> Profile | None: ...

    async def get_locked(self, user_id: str) -> Profile | None:
        """Return a profile, and lock it, whether it exists or not, until the transaction ends."""

    async def put(self, profile: Profile) -> None:
        """Create or replace a profile."""

    async def delete(self, user_id: str) -> None:
        """Delete a profile if it exists."""


class Store(Protocol):
    """Begins transactions."""

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that only reads."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes."""


class Profiles:
    """Reads and changes profiles. `expected` are the revisions that the caller accepts, or None for any."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def own(self, user_id: str) -> Profile:
        """Return the caller's own profile, which is empty if it was never written."""
        async with self._store.read() as transaction:
            return await transaction.get(user_id) or Profile(user_id)

    async def of(self, user_id: str) -> Profile:
        """Return the profile of any user. Raises ProfileNotFound."""
        async with self._store.read() as transaction:
            profile = await transaction.get(user_id)
        if profile is None:
            raise ProfileNotFound
        return profile

    async def change(
        self, user_id: str, expected: Collection[str] | None, now: datetime, change: Callable[[Profile], Profile]
    ) -> Profile:
        """Apply a change and return the new profile. Raises ProfileChanged."""
        async with self._store.write() as transaction:
            before = await transaction.get_locked(user_id) or Profile(user_id)
            _check(before, expected)
            after = replace(change(before), user_id=user_id, revision=secrets.token_hex(8), updated_at=now)
            await transaction.put(after)
        return after

    async def delete(self, user_id: str, expected: Collection[str] | None) -> None:
        """Reset a profile to an empty one. Raises ProfileChanged."""
        async with self._store.write() as transaction:
            before = await transaction.get_locked(user_id) or Profile(user_id)
            _check(before, expected)
            await transaction.delete(user_id)


def _check(profile: Profile, expected: Collection[str] | None) -> None:
    if expected is not None and profile.revision not in expected:
        raise ProfileChanged
