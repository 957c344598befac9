"""`/auth/*`: register, log in, refresh, log out, and who am I."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from ostiary import VerifiedToken
from ostiary.fastapi import Auth
from ostiary_auth.domain.accounts import Accounts, User
from ostiary_auth.domain.keys import KeyRing
from ostiary_auth.domain.sessions import Grant, Sessions
from ostiary_auth.domain.tokens import TokenPolicy, lifetime, sign_access_token
from ostiary_auth.routes.models import (
    AccountResponse,
    CallerResponse,
    LoginRequest,
    LogoutRequest,
    LogoutResponse,
    RefreshRequest,
    RegisterRequest,
    TokenResponse,
)


@dataclass(frozen=True, slots=True)
class AccountServices:
    """What the account routes work with. `key_ring` is called for each token, as keys change."""

    accounts: Accounts
    sessions: Sessions
    policy: TokenPolicy
    key_ring: Callable[[], KeyRing]
    auth: Auth


def account_routes(services: AccountServices) -> APIRouter:
    """Return the router for `/auth`."""
    router = APIRouter(prefix="/auth", tags=["account"])
    caller = Annotated[VerifiedToken, Depends(services.auth.require())]

    def tokens(grant: Grant, response: Response, now: datetime) -> TokenResponse:
        response.headers["Cache-Control"] = "no-store"  # RFC 6749 section 5.1
        return TokenResponse(
            access_token=sign_access_token(grant, services.policy, services.key_ring().signing, now),
            expires_in=lifetime(grant, services.policy, now),
            refresh_token=grant.refresh_token,
            scope=" ".join(grant.user.scopes),
            session_id=grant.session.id,
        )

    @router.post("/register", status_code=201)
    async def register(body: RegisterRequest) -> AccountResponse:
        user = await services.accounts.register(body.email, body.password, body.display_name, _now())
        return _account(user)

    @router.post("/login")
    async def login(body: LoginRequest, request: Request, response: Response) -> TokenResponse:
        user = await services.accounts.authenticate(body.email, body.password)
        now = _now()
        grant = await services.sessions.open(user, request.headers.get("user-agent"), now)
        return tokens(grant, response, now)

    @router.post("/refresh")
    async def refresh(body: RefreshRequest, response: Response) -> TokenResponse:
        now = _now()
        return tokens(await services.sessions.refresh(body.refresh_token, now), response, now)

    @router.post("/logout")
    async def logout(token: caller, body: LogoutRequest | None = None) -> LogoutResponse:
        session_id = UUID(token.session_id) if token.session_id else None
        scope = (body or LogoutRequest()).scope
        return LogoutResponse(revoked=await services.sessions.end(UUID(token.subject), session_id, scope, _now()))

    @router.get("/me")
    async def me(token: caller) -> CallerResponse:
        return CallerResponse(
            id=token.subject,
            client_id=token.client_id,
            session_id=token.session_id,
            scope=" ".join(sorted(token.scopes)),
            roles=sorted(token.roles),
            auth_time=token.auth_time,
            expires_at=token.expires_at,
        )

    return router


def _account(user: User) -> AccountResponse:
    return AccountResponse(id=user.id, email=user.email, display_name=user.display_name, created_at=user.created_at)


def _now() -> datetime:
    return datetime.now(UTC)
