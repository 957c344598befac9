"""`/auth/register`, `/auth/password` and `/auth/me`: the caller's own account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.routing import BaseRoute

from ostiary import VerifiedToken
from ostiary_auth.routes.accounts.models import (
    AccountResponse,
    CallerResponse,
    PasswordRequest,
    RegisterRequest,
    account_response,
)
from ostiary_auth.routes.dependencies import Dependencies, UserRequest
from ostiary_auth.routes.prefer_wait import note_revoked, prefer_wait_route
from ostiary_auth.routes.sessions.cookies import BrowserCookies
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute
from ostiary_chassis.openapi import documented


def account_routes(services: Services, dependencies: Dependencies, cookies: BrowserCookies | None) -> list[BaseRoute]:
    router = APIRouter(prefix="/auth", tags=["account"], route_class=StrictRoute)
    revoking = APIRouter(prefix="/auth", tags=["account"], route_class=prefer_wait_route(services))
    caller = Annotated[VerifiedToken, Depends(dependencies.auth.require())]
    live_request = Annotated[UserRequest, Depends(dependencies.live_user)]

    @router.post("/register", status_code=201, responses=documented(409, 429))
    async def register(body: RegisterRequest, request: Request) -> AccountResponse:
        """Register an account."""
        context = dependencies.context(request)
        return account_response(await services.accounts.register(body.email, body.password, body.display_name, context))

    @revoking.post("/password", status_code=204, responses=documented(403, 404, 429))
    async def password(request: Request, response: Response, call: live_request, body: PasswordRequest) -> None:
        """Change the caller's password and end their other sessions. A browser gets new cookies."""
        proof = cookies.proof(request) if cookies else None
        changed = await services.accounts.change_password(
            call.user_id, call.session_id, body.current_password, body.new_password, call.context, proof=proof
        )
        note_revoked(request, changed.revoked)
        if cookies and changed.grant:
            access = await services.tokens.for_session(changed.grant, call.context.now)
            cookies.set_session(response, changed.grant, access, call.context.now)

    @router.get("/me")
    async def me(token: caller) -> CallerResponse:
        """Return the caller, according to the access token."""
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
