"""Request and response bodies of the admin API."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ostiary_auth.domain.accounts.service import Export
from ostiary_auth.domain.audit.log import AuditEntry, AuditReport
from ostiary_auth.domain.keys.rotation import KeyState
from ostiary_auth.domain.oauth.clients import GrantType
from ostiary_auth.routes.models import DisplayName, Email, Password
from ostiary_chassis.bodies import RequestBody

Role = Annotated[str, Field(max_length=64, examples=["user"])]
ClientId = Annotated[str, Field(max_length=64, examples=["reports"])]
Scope = Annotated[str, Field(max_length=128, examples=["orders:read"])]
Audience = Annotated[str, Field(max_length=256, examples=["ostiary"])]


class _View(BaseModel):
    """What there is to see of something in the domain: its attributes of these names."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, thing: object) -> Self:
        """Return the view of a thing."""
        return cls.model_validate(thing)


class CreateUserRequest(RequestBody):
    """Open an account for somebody."""

    email: Email
    password: Password
    display_name: DisplayName | None = None
    roles: Annotated[list[Role], Field(max_length=16, default_factory=lambda: ["user"])]


class ChangeUserRequest(RequestBody):
    """Change an account; what is left out stays."""

    disabled: bool | None = None
    roles: Annotated[list[Role], Field(max_length=16)] | None = None


class UserResponse(_View):
    """An account, as an administrator sees it."""

    id: UUID
    email: Email
    display_name: str | None
    roles: list[Role]
    disabled_at: datetime | None
    created_at: datetime


class UsersResponse(BaseModel):
    """A page of users; ask with `after` = `next` for the following one."""

    users: list[UserResponse]
    next: UUID | None


class CreateClientRequest(RequestBody):
    """Register a client. With `jwks` it authenticates by private_key_jwt, else by a secret that is made for it."""

    id: ClientId
    name: Annotated[str, Field(min_length=1, max_length=100, examples=["Nightly reports"])]
    grants: Annotated[
        list[GrantType], Field(min_length=1, max_length=2, default_factory=lambda: ["client_credentials"])
    ]
    scopes: Annotated[list[Scope], Field(max_length=64, default_factory=list)]
    audiences: Annotated[list[Audience], Field(max_length=16)] | None = None
    jwks: dict[str, Any] | None = None


class ChangeClientRequest(RequestBody):
    """Keep a client out, or let it in again."""

    disabled: bool


class ClientResponse(_View):
    """A client."""

    id: ClientId
    name: str
    grants: list[str]
    scopes: list[str]
    audiences: list[str]
    authentication: Literal["client_secret", "private_key_jwt"]
    disabled_at: datetime | None
    created_at: datetime | None


class ClientsResponse(BaseModel):
    """A page of clients; ask with `after` = `next` for the following one."""

    clients: list[ClientResponse]
    next: ClientId | None


class NewClientResponse(BaseModel):
    """A client and its secret, which is shown this once."""

    client: ClientResponse
    secret: str | None


class SecretResponse(BaseModel):
    """A new secret, which is shown this once. The one before it is good for a day."""

    secret: str


class KeyResponse(_View):
    """A signing key; `since` is when it came into its state."""

    kid: str
    state: KeyState
    since: datetime
    created_at: datetime


class KeysResponse(BaseModel):
    """The signing keys, the newest first."""

    keys: list[KeyResponse]


class VerifierResponse(_View):
    """A verifier that may be accepting tokens. What it has acknowledged is as of when that was last stored."""

    id: str = Field(examples=["gateway-5f1c0a94d1b2c3e4"])
    acknowledged: int
    keys: str
    lease_ms: int
    live_until: datetime


class VerifiersResponse(BaseModel):
    """Verifiers."""

    verifiers: list[VerifierResponse]


class AuditEntryResponse(BaseModel):
    """An entry of the audit log. `personal` is null once it has been erased."""

    number: int
    at: datetime
    event: str = Field(examples=["session.ended"])
    actor: str
    subject: str | None
    facts: dict[str, str | int | list[str]]
    personal: dict[str, str] | None
    mac: str

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryResponse":
        """Return what an administrator sees of an entry."""
        # The salt keeps a digest from being guessed; it is of no use to anybody who reads.
        personal = {name: value for name, value in (entry.personal or {}).items() if name != "salt"}
        return cls(
            number=entry.number,
            at=entry.at,
            event=entry.event,
            actor=entry.actor,
            subject=entry.subject,
            facts=dict(entry.facts),
            personal=personal or None,
            mac=entry.mac.hex(),
        )


class AuditResponse(BaseModel):
    """A page of the audit log; ask with `after` = `next` for the following one."""

    entries: list[AuditEntryResponse]
    next: int | None


class AuditReportResponse(BaseModel):
    """Whether the audit log is whole. `broken_at` is the number of the first entry that does not fit."""

    intact: bool
    entries: int
    broken_at: int | None
    head: str

    @classmethod
    def of(cls, report: AuditReport) -> "AuditReportResponse":
        """Return the outcome of a check."""
        return cls(
            intact=report.broken_at is None,
            entries=report.entries,
            broken_at=report.broken_at,
            head=report.head.hex(),
        )


class StoredSessionResponse(_View):
    """A session, as it is stored."""

    id: UUID
    client_id: str
    user_agent: str | None
    address: str | None = Field(validation_alias="source")
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class ExportResponse(BaseModel):
    """All that is stored about a user, without secrets."""

    user: UserResponse
    sessions: list[StoredSessionResponse]
    audit: list[AuditEntryResponse]

    @classmethod
    def of(cls, export: Export) -> "ExportResponse":
        """Return all of an export."""
        return cls(
            user=UserResponse.of(export.user),
            sessions=[StoredSessionResponse.of(session) for session in export.sessions],
            audit=[AuditEntryResponse.of(entry) for entry in export.audit],
        )
