"""Profiles: what people say of themselves. Everybody has one; until written, it is empty.

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
    """Base of this service's errors."""

    code: ClassVar[str]
    detail: ClassVar[str]


class ProfileNotFound(ProfileError):
    """Nobody has written this profile."""

    code = "profile_not_found"
    detail = "There is no profile of this id."


class ProfileChanged(ProfileError):
    """The profile is not the one that the caller has seen."""

    code = "profile_changed"
    detail = "The profile was changed in the meantime; read it again, then repeat your change."


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. `revision` is another one after each change."""

    user_id: str
    display_name: str | None = None
    bio: str | None = None
    website: str | None = None
    revision: str = "empty"
    updated_at: datetime | None = None


class Transaction(Protocol):
    """One transaction on the store."""

    async def get(self, user_id: str) -> Profile | None:
        """Return a profile."""

    async def get_locked(self, user_id: str) -> Profile | None:
        """Return a profile, and let nobody else change or make it until the end."""

    async def put(self, profile: Profile) -> None:
        """Write a profile, whether there was one or not."""

    async def delete(self, user_id: str) -> None:
        """Delete a profile, if there is one."""


class Store(Protocol):
    """Where transactions come from."""

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that only reads."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes."""


class Profiles:
    """Reads and changes profiles. `expected` are the revisions that the caller has seen, or None for any."""

    def __init__(self, store: Store) -> None:
        """Keep profiles in `store`."""
        self._store = store

    async def own(self, user_id: str) -> Profile:
        """Return the caller's own profile, an empty one if it was never written."""
        async with self._store.read() as transaction:
            return await transaction.get(user_id) or Profile(user_id)

    async def of(self, user_id: str) -> Profile:
        """Return anybody's profile. Raises ProfileNotFound."""
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
        """Delete a profile; its owner has an empty one again. Raises ProfileChanged."""
        async with self._store.write() as transaction:
            before = await transaction.get_locked(user_id) or Profile(user_id)
            _check(before, expected)
            await transaction.delete(user_id)


def _check(profile: Profile, expected: Collection[str] | None) -> None:
    if expected is not None and profile.revision not in expected:
        raise ProfileChanged
