"""`/admin/audit`, for callers with the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.routing import BaseRoute

from ostiary_auth.domain.context import Context
from ostiary_auth.routes.audit.models import AuditEntryResponse, AuditReportResponse, AuditResponse
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.paging import Limit, page_of
from ostiary_auth.routes.parameters import PRINTABLE
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute

#: Entries that one request verifies: some seconds, and less than a gateway waits. Each step is recorded.
VERIFIED_AT_ONCE = 50_000

#: Seconds after each page that the event loop has for others: as long as a page takes.
VERIFY_PAUSE_SECONDS = 0.004


def audit_admin_routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:
    router = APIRouter(prefix="/admin/audit", tags=["admin"], route_class=StrictRoute)
    admin = Annotated[Context, Depends(dependencies.admin)]

    @router.get("")
    async def audit(
        _admin: admin,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Limit = 50,
        subject: Annotated[str | None, Query(max_length=80, pattern=PRINTABLE)] = None,
    ) -> AuditResponse:
        """List audit log entries, the oldest first."""
        async with services.store.read() as transaction:
            page, last = page_of(await transaction.audit.entries(after, limit + 1, subject), limit)
        return AuditResponse(
            entries=[AuditEntryResponse.of(entry) for entry in page], next=last.number if last else None
        )

    @router.get("/verify")
    async def verify(context: admin) -> AuditReportResponse:
        """Verify the chain of MACs of the audit log from where the last verification has ended.

        That is done in steps: repeat the request until `complete` is true.
        """
        report = await services.audit.verify(services.store, limit=VERIFIED_AT_ONCE, pause=VERIFY_PAUSE_SECONDS)
        await services.audit.record_verified(services.store, report, context)
        return AuditReportResponse.of(report)

    return router.routes
