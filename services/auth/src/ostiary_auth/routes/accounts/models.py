"""Request and response bodies about accounts."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.accounts.service import Export
from ostiary_auth.routes.audit.models import AuditEntryResponse
from ostiary_auth.routes.fields import Email, Password
from ostiary_auth.routes.models import View
from ostiary_auth.routes.sessions.models import StoredSessionResponse
from ostiary_chassis.bodies import RequestBody

DisplayName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, strip_whitespace=True),
    Field(examples=["Ada Lovelace"]),
]

Role = Annotated[str, Field(max_length=64, examples=["user"])]


class RegisterRequest(RequestBody):
    """A registration."""

    email: Email
    password: Password
    display_name: DisplayName | None = None


class PasswordRequest(RequestBody):
    """A password change."""

    current_password: Password
    new_password: Annotated[Password, Field(examples=["a whole new battery staple"])]


class AccountResponse(BaseModel):
    """An account."""

    id: UUID
    email: Email
    display_name: str | None = Field(examples=["Ada Lovelace"])
    created_at: datetime


class CallerResponse(BaseModel):
    """The caller, according to the access token. Times are in seconds since the epoch."""

    id: str
    client_id: str
    session_id: str | None
    scope: str
    roles: list[str]
    auth_time: float | None
    expires_at: float


class CreateUserRequest(RequestBody):
    """A new account."""

    email: Email
    password: Password
    display_name: DisplayName | None = None
    roles: Annotated[list[Role], Field(max_length=16, default_factory=lambda: ["user"])]


class ChangeUserRequest(RequestBody):
    """A change of an account; omitted fields stay the same."""

    disabled: bool | None = None
    roles: Annotated[list[Role], Field(max_length=16)] | None = None


class UserResponse(View):
    """An account, as administrators see it."""

    id: UUID
    email: Email
    display_name: str | None
    roles: list[Role]
    disabled_at: datetime | None
    created_at: datetime


class UsersResponse(BaseModel):
    """A page of users; get the next one with `after` = `next`."""

    users: list[UserResponse]
    next: UUID | None


class ExportResponse(BaseModel):
    """Everything stored about a user, without secrets."""

    user: UserResponse
    sessions: list[StoredSessionResponse]
    audit: list[AuditEntryResponse]

    @classmethod
    def of(cls, export: Export) -> "ExportResponse":
        return cls(
            user=UserResponse.of(export.user),
            sessions=[StoredSessionResponse.of(session) for session in export.sessions],
            audit=[AuditEntryResponse.of(entry) for entry in export.audit],
        )


def account_response(user: User) -> AccountResponse:
    return AccountResponse(id=user.id, email=user.email, display_name=user.display_name, created_at=user.created_at)
