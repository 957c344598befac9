"""What the audit log records, and how its entries look."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ostiary_auth.domain.context import ANONYMOUS, client_actor
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID

#: Facts of an entry: neither secrets nor personal data.
Facts = Mapping[str, str | int | list[str]]

#: Actors that stand for the user an entry is about: somebody who logs in, and the first-party client.
SELF_SERVICE_ACTORS = (ANONYMOUS, client_actor(FIRST_PARTY_CLIENT_ID))


class Event(StrEnum):
    """What the audit log records."""

    USER_REGISTERED = "user.registered"
    USER_CREATED = "user.created"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_ROLES_CHANGED = "user.roles_changed"
    USER_PASSWORD_CHANGED = "user.password_changed"  # noqa: S105 - an event's name
    USER_EXPORTED = "user.exported"
    USER_DELETED = "user.deleted"
    LOGIN_SUCCEEDED = "login.succeeded"
    LOGIN_FAILED = "login.failed"
    PASSWORD_CHECK_FAILED = "password_check.failed"  # noqa: S105 - an event's name
    SESSION_ENDED = "session.ended"
    REFRESH_TOKEN_REPLAYED = "refresh_token.replayed"  # noqa: S105 - an event's name
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - an event's name
    CLIENT_CREATED = "client.created"
    CLIENT_DISABLED = "client.disabled"
    CLIENT_ENABLED = "client.enabled"
    CLIENT_SECRET_ROTATED = "client.secret_rotated"  # noqa: S105 - an event's name
    CLIENT_DELETED = "client.deleted"
    KEY_MADE = "key.made"
    KEY_SIGNS = "key.signs"
    KEY_RETIRED = "key.retired"
    KEY_GONE = "key.gone"
    KEY_REVOKED = "key.revoked"
    KEYS_REWRAPPED = "keys.rewrapped"
    ALL_REVOKED = "tokens.all_revoked"
    CLOCK_PUT_BACK = "database_clock.put_back"
    AUDIT_LOG_TRIMMED = "audit_log.trimmed"
    AUDIT_LOG_VERIFIED = "audit_log.verified"
    LOG_RESTARTED = "revocation_log.restarted"
    DATABASE_RESTORED = "database.restored"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit log: `actor` did it, to or about `subject`.

    `personal` is covered by `mac` through `personal_digest` only, so that it can be erased.
    """

    number: int
    at: datetime
    event: str
    actor: str
    subject: str | None
    facts: Facts
    personal: Mapping[str, str] | None
    personal_digest: bytes | None
    mac: bytes


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The end of the audit log: number and MAC of its last entry; 0 and nothing if there is none."""

    number: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of verifying the audit log. `broken_at` is the number of the first entry that breaks the chain."""

    #: The number of the last intact entry.
    entries: int
    broken_at: int | None
    head: bytes
    #: The number of the last entry that is not kept any more; 0 if all are.
    trimmed: int = 0
    #: The number of the last entry that was not looked at, as it is not kept, or was verified before.
    start: int = 0
    #: Whether that was all; otherwise a limit was reached.
    is_complete: bool = True
