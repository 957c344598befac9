"""Request and response bodies."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ostiary_chassis.bodies import RequestBody

#: Characters of an address (RFC 5321 section 4.5.3.1: 64 before the @, 255 after).
Email = Annotated[str, Field(max_length=320, examples=["ada@example.com"])]

#: Its rules are the domain's; this only keeps out what nobody types.
Password = Annotated[str, Field(max_length=1024, examples=["correct horse battery staple"])]

DisplayName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, strip_whitespace=True),
    Field(examples=["Ada Lovelace"]),
]


class RegisterRequest(RequestBody):
    """Open an account."""

    email: Email
    password: Password = Field(repr=False)
    display_name: DisplayName | None = None


class LoginRequest(RequestBody):
    """Log in."""

    email: Email
    password: Password = Field(repr=False)


class RefreshRequest(RequestBody):
    """Continue a session."""

    refresh_token: Annotated[str, Field(min_length=1, max_length=1024, repr=False)]


class LogoutRequest(RequestBody):
    """End sessions: this one, all but this one, or all."""

    scope: Literal["local", "others", "global"] = "local"


class AccountResponse(BaseModel):
    """An account."""

    id: UUID
    email: str
    display_name: str | None
    created_at: datetime


class TokenResponse(BaseModel):
    """Tokens (RFC 6749 section 5.1). `expires_in` is in seconds."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a type, not a secret
    expires_in: int
    refresh_token: str
    scope: str
    session_id: UUID


class LogoutResponse(BaseModel):
    """How many sessions were ended."""

    revoked: int


class CallerResponse(BaseModel):
    """The caller, as the access token says. Dates are seconds since the epoch."""

    id: str
    client_id: str
    session_id: str | None
    scope: str
    roles: list[str]
    auth_time: float | None
    expires_at: float
