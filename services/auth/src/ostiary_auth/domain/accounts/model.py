"""Users, their roles and scopes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from ostiary_auth.domain.errors import InvalidName, UnknownRole
from ostiary_chassis.names import is_name

#: Characters of a display name.
MAX_NAME_CHARACTERS = 100

#: The scopes of each role. A user without roles has no scopes.
SCOPES_OF_ROLE = {
    "user": ("profile:read", "profile:write"),
    "admin": ("admin", "profile:read:any"),
}


@dataclass(frozen=True, slots=True)
class User:
    """An account. Confusable spellings of one address have the same `email_key`."""

    id: UUID
    email: str
    email_key: str
    display_name: str | None
    password_hash: str = field(repr=False)
    roles: tuple[str, ...]
    disabled_at: datetime | None
    created_at: datetime

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the user's roles, sorted."""
        return tuple(sorted({scope for role in self.roles for scope in SCOPES_OF_ROLE.get(role, ())}))


@dataclass(frozen=True, slots=True)
class AccountRules:
    """What accounts have to meet; `special_domains` are those of special use that addresses may have."""

    min_password_characters: int
    special_domains: tuple[str, ...] = ()


def accept_name(name: str | None) -> str | None:
    """Raise InvalidName unless this is a valid display name or none."""
    if name is not None and not (1 <= len(name) <= MAX_NAME_CHARACTERS and is_name(name)):
        raise InvalidName
    return name


def accept_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Return roles sorted, without duplicates. Raises UnknownRole."""
    wanted = set(roles)
    if unknown := sorted(wanted - SCOPES_OF_ROLE.keys()):
        raise UnknownRole(f"Unknown role {unknown[0]!r}; use one of: {', '.join(sorted(SCOPES_OF_ROLE))}.")
    return tuple(sorted(wanted))
