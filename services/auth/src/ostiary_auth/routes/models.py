"""Request and response bodies."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ostiary_auth.domain.accounts.model import User
from ostiary_chassis.bodies import RequestBody

#: Characters of an address (RFC 5321 section 4.5.3.1: 64 before the @, 255 after).
Email = Annotated[str, Field(max_length=320, examples=["ada@example.com"])]

#: Its rules are the domain's; this only keeps out what nobody types.
Password = Annotated[str, Field(max_length=1024, repr=False, examples=["correct horse battery staple"])]

DisplayName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, strip_whitespace=True),
    Field(examples=["Ada Lovelace"]),
]

_REFRESH_TOKEN = "gq0xk1WZ3Yx0b0gTq6cJ1m8Qk5m2v7s9d4f6h8j0k2l"  # noqa: S105 - made up
_ACCESS_TOKEN = "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6Ii4uLiJ9.eyJzdWIiOiIuLi4ifQ.c2ln"  # noqa: S105 - made up


class RegisterRequest(RequestBody):
    """Open an account."""

    email: Email
    password: Password
    display_name: DisplayName | None = None


class LoginRequest(RequestBody):
    """Log in."""

    email: Email
    password: Password


class RefreshRequest(RequestBody):
    """Continue a session."""

    refresh_token: Annotated[str, Field(min_length=1, max_length=1024, repr=False, examples=[_REFRESH_TOKEN])]


class LogoutRequest(RequestBody):
    """End sessions: this one, all but this one, or all."""

    scope: Literal["local", "others", "global"] = "local"


class PasswordRequest(RequestBody):
    """Change one's password."""

    current_password: Password
    new_password: Annotated[Password, Field(examples=["a whole new battery staple"])]


class AccountResponse(BaseModel):
    """An account."""

    id: UUID
    email: Email
    display_name: str | None = Field(examples=["Ada Lovelace"])
    created_at: datetime


class TokenResponse(BaseModel):
    """Tokens (RFC 6749 section 5.1). `expires_in` is in seconds."""

    access_token: str = Field(examples=[_ACCESS_TOKEN])
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a type, not a secret
    expires_in: int = Field(examples=[900])
    refresh_token: str = Field(examples=[_REFRESH_TOKEN])
    scope: str = Field(examples=["profile:read profile:write"])
    session_id: UUID


class EndedResponse(BaseModel):
    """How many sessions were ended."""

    revoked: int = Field(examples=[1])


class InForceResponse(EndedResponse):
    """What was revoked, and how far that is in force.

    `cursor` is its place in the revocation log, `acknowledged_by` how many verifiers have applied it, `complete`
    whether none accepts it any more, and `in_force_after_ms` how long that took.
    """

    cursor: int
    acknowledged_by: int
    in_force_after_ms: float | None
    complete: bool


class SessionResponse(BaseModel):
    """A session: a login on one device. `ends_at` is when it ends if it is not used; nothing moves `expires_at`."""

    id: UUID
    current: bool
    device: str | None = Field(examples=["Firefox on Linux"])
    address: str | None = Field(examples=["192.0.2.7"])
    created_at: datetime
    last_used_at: datetime
    ends_at: datetime
    expires_at: datetime


class SessionsResponse(BaseModel):
    """Sessions, the one used last first."""

    sessions: list[SessionResponse]


class CallerResponse(BaseModel):
    """The caller, as the access token says. Dates are seconds since the epoch."""

    id: str
    client_id: str
    session_id: str | None
    scope: str
    roles: list[str]
    auth_time: float | None
    expires_at: float


def account_response(user: User) -> AccountResponse:
    """Return what people see of an account."""
    return AccountResponse(id=user.id, email=user.email, display_name=user.display_name, created_at=user.created_at)
