"""Request and response bodies of `/session`."""

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from ostiary import VerifiedToken
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.sessions.model import BrowserGrant, Session
from ostiary_auth.routes.accounts.models import AccountResponse, account_response
from ostiary_auth.routes.sessions.models import LoginRequest


class BrowserLoginRequest(LoginRequest):
    """Credentials, and whether the session goes on when the browser is closed."""

    remember: bool = True


class BrowserSessionResponse(BaseModel):
    """A session that was opened in a browser. `expires_at` is its absolute limit."""

    user: AccountResponse
    session_id: UUID
    expires_at: datetime
    persistent: bool
    scope: str = Field(examples=["profile:read profile:write"])
    roles: list[str] = Field(examples=[["user"]])

    @classmethod
    def of(cls, grant: BrowserGrant) -> Self:
        return cls(
            user=account_response(grant.user),
            session_id=grant.session.id,
            expires_at=grant.session.expires_at,
            persistent=grant.session.persistent,
            scope=" ".join(grant.scopes),
            roles=list(grant.user.roles),
        )


class CurrentSessionResponse(BaseModel):
    """Who is logged in, according to the access token; the other members are there if somebody is."""

    authenticated: bool
    user: AccountResponse | None = None
    session_id: UUID | None = None
    expires_at: datetime | None = None
    scope: str | None = Field(None, examples=["profile:read profile:write"])
    roles: list[str] | None = Field(None, examples=[["user"]])

    @classmethod
    def of(cls, user: User, session: Session, token: VerifiedToken) -> Self:
        return cls(
            authenticated=True,
            user=account_response(user),
            session_id=session.id,
            expires_at=session.expires_at,
            scope=" ".join(sorted(token.scopes)),
            roles=sorted(token.roles),
        )


NOBODY = CurrentSessionResponse(authenticated=False)
