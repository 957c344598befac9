"""`/admin/keys`, for callers with the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.routing import BaseRoute

from ostiary_auth.domain.context import Context
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.keys.models import KeyResponse, KeysResponse
from ostiary_auth.routes.parameters import Name
from ostiary_auth.routes.prefer_wait import note_revoked, prefer_wait_route
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute
from ostiary_chassis.openapi import documented


def key_admin_routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin/keys", tags=["admin"], route_class=StrictRoute)
    revoking = APIRouter(prefix="/admin/keys", tags=["admin"], route_class=prefer_wait_route(services))
    admin = Annotated[Context, Depends(dependencies.admin)]

    @router.get("")
    async def keys(_admin: admin) -> KeysResponse:
        """List the signing keys."""
        return await listed()

    @router.post("/rotate", responses=documented(409))
    async def rotate(context: admin) -> KeysResponse:
        """Start signing with the next key."""
        await services.keys.rotate(context)
        return await listed()

    @revoking.post("/{kid}/revoke", responses=documented(404))
    async def revoke(request: Request, context: admin, kid: Name) -> KeysResponse:
        """Delete a key and revoke every token that it has signed."""
        note_revoked(request, await services.keys.revoke(context, kid))
        return await listed()

    async def listed() -> KeysResponse:
        return KeysResponse(keys=[KeyResponse.of(key) for key in await services.keys.stored()])

    return [*router.routes, *revoking.routes]
