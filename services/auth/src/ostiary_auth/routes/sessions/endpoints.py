"""`/auth/login`, `/auth/refresh`, `/auth/logout` and `/auth/sessions`: the caller's own sessions."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from starlette.routing import BaseRoute

from ostiary_auth.domain.oauth.access_tokens import AccessToken
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions import device_label
from ostiary_auth.domain.sessions.model import Grant, Session, SessionLimits
from ostiary_auth.routes.dependencies import Dependencies, UserRequest
from ostiary_auth.routes.prefer_wait import note_revoked, prefer_wait_route
from ostiary_auth.routes.sessions.cookies import BrowserCookies
from ostiary_auth.routes.sessions.models import (
    EndedResponse,
    LoginRequest,
    LogoutRequest,
    RefreshRequest,
    SessionResponse,
    SessionsResponse,
    TokenResponse,
)
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute
from ostiary_chassis.openapi import documented


def session_routes(services: Services, dependencies: Dependencies, cookies: BrowserCookies | None) -> list[BaseRoute]:
    router = APIRouter(prefix="/auth", tags=["account"], route_class=StrictRoute)
    revoking = APIRouter(prefix="/auth", tags=["account"], route_class=prefer_wait_route(services))
    user_request = Annotated[UserRequest, Depends(dependencies.user)]
    live_request = Annotated[UserRequest, Depends(dependencies.live_user)]

    @router.post("/login", responses=documented(401, 429))
    async def login(body: LoginRequest, request: Request, response: Response) -> TokenResponse:
        """Log in. Neither the response nor its time reveals whether an account exists."""
        context = dependencies.context(request)
        known_device = cookies.device(request) if cookies else None
        outcome = await services.accounts.log_in(
            body.email, body.password, known_device, FIRST_PARTY_CLIENT_ID, context
        )
        if cookies:
            cookies.set_device(response, outcome.device_token)
        return token_response(outcome.grant, await services.tokens.for_session(outcome.grant, context.now), response)

    @router.post("/refresh", responses=documented(401))
    async def refresh(body: RefreshRequest, request: Request, response: Response) -> TokenResponse:
        """Refresh a session. The refresh token is used up; the response has the next one."""
        context = dependencies.context(request)
        grant = await services.sessions.refresh(body.refresh_token, FIRST_PARTY_CLIENT_ID, context)
        return token_response(grant, await services.tokens.for_session(grant, context.now), response)

    @revoking.post("/logout")
    async def logout(request: Request, call: user_request, body: LogoutRequest | None = None) -> EndedResponse:
        """End the caller's session, their other sessions, or all."""
        scope = (body or LogoutRequest()).scope
        revoked = await services.sessions.end(call.user_id, call.session_id, scope, call.context)
        return EndedResponse(revoked=len(note_revoked(request, revoked)))

    @router.get("/sessions")
    async def sessions(call: live_request) -> SessionsResponse:
        """List the caller's sessions, the most recently used first."""
        found = await services.sessions.of_user(call.user_id, call.context.now)
        limits = services.sessions.limits
        return SessionsResponse(sessions=[_session(each, call.session_id, limits) for each in found])

    @revoking.delete("/sessions/{session_id}", responses=documented(404))
    async def end_session(request: Request, call: live_request, session_id: UUID) -> EndedResponse:
        """End one of the caller's sessions."""
        revoked = await services.sessions.end_one(call.user_id, session_id, call.context)
        return EndedResponse(revoked=len(note_revoked(request, revoked)))

    return [*router.routes, *revoking.routes]


def token_response(grant: Grant, access: AccessToken, response: Response) -> TokenResponse:
    """Return the response to a login or a refresh (RFC 6749 section 5.1)."""
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
        device=device_label.label(session.user_agent),
        address=session.source,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        ends_at=limits.ends_at(session),
        expires_at=session.expires_at,
    )
