"""`/admin/verifiers` and `/admin/tokens/revoke`, for callers with the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.routing import BaseRoute

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.model import each_once
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.prefer_wait import note_revoked, prefer_wait_route
from ostiary_auth.routes.revocation.models import VerifierResponse, VerifiersResponse
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute


def revocation_admin_routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin", tags=["admin"], route_class=StrictRoute)
    revoking = APIRouter(prefix="/admin", tags=["admin"], route_class=prefer_wait_route(services))
    admin = Annotated[Context, Depends(dependencies.admin)]

    @router.get("/verifiers")
    async def verifiers(context: admin) -> VerifiersResponse:
        """List the verifiers that may be accepting tokens."""
        async with services.store.read() as transaction:
            live = await transaction.verifiers.live(context.now)
        return VerifiersResponse(verifiers=[VerifierResponse.of(verifier) for verifier in each_once(live)])

    @revoking.post("/tokens/revoke", status_code=204)
    async def revoke_all(request: Request, context: admin) -> None:
        """Revoke every access token. Sessions continue, and clients refresh."""
        note_revoked(request, await services.revocations.revoke_all(services.store, context))

    return [*router.routes, *revoking.routes]
