"""Request and response bodies about sessions."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from ostiary_auth.routes.fields import Email, Password
from ostiary_auth.routes.models import View
from ostiary_chassis.bodies import RequestBody

_REFRESH_TOKEN = "gq0xk1WZ3Yx0b0gTq6cJ1m8Qk5m2v7s9d4f6h8j0k2l"  # noqa: S105 - made up
_ACCESS_TOKEN = "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6Ii4uLiJ9.eyJzdWIiOiIuLi4ifQ.c2ln"  # noqa: S105 - made up


class LoginRequest(RequestBody):
    """Credentials."""

    email: Email
    password: Password


class RefreshRequest(RequestBody):
    """A refresh token."""

    refresh_token: Annotated[str, Field(min_length=1, max_length=1024, repr=False, examples=[_REFRESH_TOKEN])]


class LogoutRequest(RequestBody):
    """Which sessions to end: this one, all others, or all."""

    scope: Literal["local", "others", "global"] = "local"


class TokenResponse(BaseModel):
    """Tokens (RFC 6749 section 5.1). `expires_in` is in seconds."""

    access_token: str = Field(examples=[_ACCESS_TOKEN])
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a type, not a secret
    expires_in: int = Field(examples=[900])
    refresh_token: str = Field(examples=[_REFRESH_TOKEN])
    scope: str = Field(examples=["profile:read profile:write"])
    session_id: UUID


class EndedResponse(BaseModel):
    """The number of sessions that were ended."""

    revoked: int = Field(examples=[1])


class SessionResponse(BaseModel):
    """A login on one device. `ends_at` is when it ends unless it is used; `expires_at` is its absolute limit."""

    id: UUID
    current: bool
    device: str | None = Field(examples=["Firefox on Linux"])
    address: str | None = Field(examples=["192.0.2.7"])
    created_at: datetime
    last_used_at: datetime
    ends_at: datetime
    expires_at: datetime


class SessionsResponse(BaseModel):
    """Sessions, the most recently used first."""

    sessions: list[SessionResponse]


class StoredSessionResponse(View):
    """A session, as it is stored."""

    id: UUID
    client_id: str
    user_agent: str | None
    address: str | None = Field(validation_alias="source")
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ended_at: datetime | None
