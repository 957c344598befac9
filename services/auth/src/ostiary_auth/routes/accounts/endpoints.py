"""`/auth/*`: register, log in, refresh, one's sessions, one's password, log out, and who am I."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from starlette.routing import BaseRoute

from ostiary import VerifiedToken
from ostiary_auth.domain.accounts import device_tokens
from ostiary_auth.domain.oauth.access_tokens import AccessToken
from ostiary_auth.domain.oauth.clients import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.service import Grant, Session, SessionLimits
from ostiary_auth.routes.dependencies import Requests, UserCall
from ostiary_auth.routes.models import (
    AccountResponse,
    CallerResponse,
    EndedResponse,
    LoginRequest,
    LogoutRequest,
    PasswordRequest,
    RefreshRequest,
    RegisterRequest,
    SessionResponse,
    SessionsResponse,
    TokenResponse,
    account_response,
)
from ostiary_auth.routes.prefer_wait import revoking_route
from ostiary_auth.services import Services
from ostiary_chassis.openapi import documented

DEVICE_COOKIE = "ostiary-device"

#: Seconds that a browser keeps the mark of a device; each login from an unknown one begins anew.
DEVICE_COOKIE_AGE = 365 * 24 * 3600


def account_routes(services: Services, requests: Requests) -> list[BaseRoute]:
    """Return the routes of `/auth`."""
    router = APIRouter(prefix="/auth", tags=["account"])
    revoking = APIRouter(prefix="/auth", tags=["account"], route_class=revoking_route(services))
    caller = Annotated[VerifiedToken, Depends(requests.auth.require())]
    user_call = Annotated[UserCall, Depends(requests.user)]
    live_call = Annotated[UserCall, Depends(requests.live_user)]
    secure = services.config.issuer.startswith("https:")

    @router.post("/register", status_code=201, responses=documented(409))
    async def register(body: RegisterRequest, request: Request) -> AccountResponse:
        """Open an account."""
        context = requests.context(request)
        return account_response(await services.accounts.register(body.email, body.password, body.display_name, context))

    @router.post("/login", responses=documented(401, 429))
    async def login(body: LoginRequest, request: Request, response: Response) -> TokenResponse:
        """Open a session. Whether an account exists can be seen neither from the answer nor from its time."""
        context = requests.context(request)
        known_device = request.cookies.get(DEVICE_COOKIE)
        outcome = await services.accounts.log_in(
            body.email, body.password, known_device, FIRST_PARTY_CLIENT_ID, context
        )
        if outcome.device_token is not None:
            response.set_cookie(
                DEVICE_COOKIE,
                outcome.device_token,
                max_age=DEVICE_COOKIE_AGE,
                path="/auth/login",
                secure=secure,
                httponly=True,
                samesite="strict",
            )
        return token_response(outcome.grant, await services.tokens.for_session(outcome.grant, context.now), response)

    @router.post("/refresh", responses=documented(401))
    async def refresh(body: RefreshRequest, request: Request, response: Response) -> TokenResponse:
        """Continue a session. The refresh token is used up by it; the answer has the next one."""
        context = requests.context(request)
        grant = await services.sessions.refresh(body.refresh_token, FIRST_PARTY_CLIENT_ID, context)
        return token_response(grant, await services.tokens.for_session(grant, context.now), response)

    @revoking.post("/logout")
    async def logout(call: user_call, body: LogoutRequest | None = None) -> EndedResponse:
        """End the caller's session, or their others, or all of them."""
        scope = (body or LogoutRequest()).scope
        return EndedResponse(revoked=await services.sessions.end(call.user_id, call.session_id, scope, call.context))

    @router.get("/sessions")
    async def sessions(call: live_call) -> SessionsResponse:
        """List the caller's sessions, the one used last first."""
        found = await services.sessions.of_user(call.user_id, call.context.now)
        limits = services.sessions.limits
        return SessionsResponse(sessions=[_session(each, call.session_id, limits) for each in found])

    @revoking.delete("/sessions/{session_id}", responses=documented(404))
    async def end_session(call: live_call, session_id: UUID) -> EndedResponse:
        """End one of the caller's sessions."""
        return EndedResponse(revoked=await services.sessions.end_one(call.user_id, session_id, call.context))

    @revoking.post("/password", status_code=204, responses=documented(403, 404, 429))
    async def password(call: live_call, body: PasswordRequest) -> None:
        """Change the caller's password; their other sessions end."""
        await services.accounts.change_password(
            call.user_id, call.session_id, body.current_password, body.new_password, call.context
        )

    @router.get("/me")
    async def me(token: caller) -> CallerResponse:
        """Return the caller, as the access token says."""
        return CallerResponse(
            id=token.subject,
            client_id=token.client_id,
            session_id=token.session_id,
            scope=" ".join(sorted(token.scopes)),
            roles=sorted(token.roles),
            auth_time=token.auth_time,
            expires_at=token.expires_at,
        )

    return [*router.routes, *revoking.routes]


def token_response(grant: Grant, access: AccessToken, response: Response) -> TokenResponse:
    """Return the answer to a login or a refresh (RFC 6749 section 5.1)."""
    response.headers["Cache-Control"] = "no-store"
    return TokenResponse(
        access_token=access.token,
        expires_in=access.expires_in,
        refresh_token=grant.refresh_token,
        scope=access.scope,
        session_id=grant.session.id,
    )


def _session(session: Session, current: UUID, limits: SessionLimits) -> SessionResponse:
    return SessionResponse(
        id=session.id,
        current=session.id == current,
        device=device_tokens.label(session.user_agent),
        address=session.source,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        ends_at=limits.ends_at(session),
        expires_at=session.expires_at,
    )
