"""Users: who somebody is and what they may do."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from ostiary_auth.domain.errors import InvalidName, UnknownRole

#: Characters of a name that is shown.
MAX_NAME_CHARACTERS = 100

#: Scopes that come with a role. Who has no role has no scopes.
SCOPES_OF_ROLE = {
    "user": ("profile:read", "profile:write"),
    "admin": ("admin", "profile:read:any"),
}


@dataclass(frozen=True, slots=True)
class User:
    """An account. `email_key` is what makes two spellings of one address the same account."""

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
        """Return the scopes of the user's roles, sorted."""
        return tuple(sorted({scope for role in self.roles for scope in SCOPES_OF_ROLE.get(role, ())}))


def accept_name(name: str | None) -> str | None:
    """Return the name that somebody is shown by, or none. Raises InvalidName."""
    if name is not None and not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidName
    return name


def accept_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Return roles in order, each once. Raises UnknownRole."""
    wanted = set(roles)
    if unknown := sorted(wanted - SCOPES_OF_ROLE.keys()):
        raise UnknownRole(f"There is no role {unknown[0]!r}; there are: {', '.join(sorted(SCOPES_OF_ROLE))}.")
    return tuple(sorted(wanted))
