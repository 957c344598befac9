"""`/admin/users`, for callers with the scope `admin`."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.routing import BaseRoute

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.routes.accounts.models import (
    ChangeUserRequest,
    CreateUserRequest,
    ExportResponse,
    UserResponse,
    UsersResponse,
)
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.paging import Limit, page_of
from ostiary_auth.routes.prefer_wait import note_revoked, prefer_wait_route
from ostiary_auth.routes.sessions.models import EndedResponse
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute
from ostiary_chassis.openapi import documented


def user_admin_routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:  # noqa: C901 - a list of routes
    router = APIRouter(prefix="/admin/users", tags=["admin"], route_class=StrictRoute)
    revoking = APIRouter(prefix="/admin/users", tags=["admin"], route_class=prefer_wait_route(services))
    admin = Annotated[Context, Depends(dependencies.admin)]
    accounts = services.accounts

    @router.get("")
    async def users(_admin: admin, after: UUID | None = None, limit: Limit = 50) -> UsersResponse:
        """List users, ordered by id."""
        page, last = page_of(await accounts.page(after, limit + 1), limit)
        return UsersResponse(users=[UserResponse.of(user) for user in page], next=last.id if last else None)

    @router.post("", status_code=201, responses=documented(409))
    async def create_user(context: admin, body: CreateUserRequest) -> UserResponse:
        """Create an account."""
        roles = tuple(body.roles)
        return UserResponse.of(await accounts.create(body.email, body.password, body.display_name, roles, context))

    @router.get("/{user_id}", responses=documented(404))
    async def user(_admin: admin, user_id: UUID) -> UserResponse:
        """Return a user."""
        return UserResponse.of(await accounts.get(user_id))

    @revoking.patch("/{user_id}", responses=documented(404))
    async def change_user(request: Request, context: admin, user_id: UUID, body: ChangeUserRequest) -> UserResponse:
        """Disable or enable a user, or replace their roles. Disabling ends all sessions."""
        revoked: RevokedNumbers = ()
        if body.roles is not None:
            revoked += await accounts.set_roles(user_id, tuple(body.roles), context)
        if body.disabled is True:
            revoked += await accounts.disable(user_id, context)
        elif body.disabled is False:
            await accounts.enable(user_id, context)
        note_revoked(request, revoked)
        return UserResponse.of(await accounts.get(user_id))

    @revoking.delete("/{user_id}", status_code=204, responses=documented(404))
    async def delete_user(request: Request, context: admin, user_id: UUID) -> None:
        """Delete a user and all their personal data."""
        note_revoked(request, await accounts.delete(user_id, context))

    @revoking.delete("/{user_id}/sessions", responses=documented(404))
    async def end_sessions(request: Request, context: admin, user_id: UUID) -> EndedResponse:
        """End all sessions of a user."""
        revoked = await accounts.end_sessions(user_id, context)
        return EndedResponse(revoked=len(note_revoked(request, revoked)))

    @router.get("/{user_id}/export", responses=documented(404))
    async def export(context: admin, user_id: UUID) -> ExportResponse:
        """Return everything stored about a user."""
        return ExportResponse.of(await accounts.export(user_id, context))

    return [*router.routes, *revoking.routes]
