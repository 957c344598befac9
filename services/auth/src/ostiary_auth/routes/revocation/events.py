"""`POST /events/poll`: security events (RFC 8936)."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import BaseRoute

from ostiary import VerifiedToken
from ostiary.errors import InsufficientScope
from ostiary_auth.domain.revocation.security_events import EVENTS_SCOPE, MAX_EVENTS
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.services import Services
from ostiary_chassis.bodies import RequestBody, StrictRoute
from ostiary_chassis.openapi import documented

_log = structlog.stdlib.get_logger("events")

#: Seconds that a poll waits for an event; gateways time out after 30.
MAX_WAIT_SECONDS = 20.0

#: Maximum number of ids in a request, enough for several responses.
MAX_IDS = 1000

EventId = Annotated[str, Field(max_length=128, examples=["9f3c5a1e0b7d2468.17"])]


class PollRequest(RequestBody):
    """A poll (RFC 8936 section 2.2). Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    max_events: Annotated[int, Field(alias="maxEvents", ge=0)] = MAX_EVENTS
    return_immediately: Annotated[bool, Field(alias="returnImmediately")] = False
    ack: Annotated[list[EventId], Field(max_length=MAX_IDS, default_factory=list)]
    errors: Annotated[
        dict[EventId, dict[str, object]], Field(alias="setErrs", max_length=MAX_IDS, default_factory=dict)
    ]


class PollResponse(BaseModel):
    """Signed events by their ids (RFC 8936 section 2.3)."""

    sets: dict[str, str]
    more: Annotated[bool, Field(serialization_alias="moreAvailable")]


def events_routes(services: Services, dependencies: Dependencies) -> list[BaseRoute]:
    router = APIRouter(prefix="/events", tags=["events"], route_class=StrictRoute)
    receiver = Annotated[VerifiedToken, Depends(dependencies.auth.require(scopes=[EVENTS_SCOPE]))]

    @router.post("/poll", responses=documented(403))
    async def poll(token: receiver, body: PollRequest) -> PollResponse:
        """Return events that have not been acknowledged: ended sessions (CAEP `session-revoked`)."""
        if token.session_id is not None:
            raise InsufficientScope(frozenset({EVENTS_SCOPE}))
        await dependencies.callers.require_client(token.client_id, EVENTS_SCOPE)
        for event_id, error in body.errors.items():
            _log.warning(
                "security event rejected", receiver=token.client_id, event_id=event_id, error=str(error.get("err"))[:64]
            )
        # Delivering a rejected event again would not help.
        await services.events.acknowledge(token.client_id, [*body.ack, *body.errors])
        limit = min(body.max_events, MAX_EVENTS)
        seconds = 0.0 if body.return_immediately or limit == 0 else MAX_WAIT_SECONDS
        delivery = await services.events.deliver(token.client_id, limit, seconds)
        return PollResponse(sets=delivery.events, more=delivery.more)

    return router.routes
