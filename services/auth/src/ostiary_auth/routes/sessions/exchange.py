"""`POST /sessions/exchange`: access tokens for the sessions of browsers, for gateways only.

It is internal to this service and its gateways, so no gateway routes it and the OpenAPI document does not have it.
Each session needs it once in the lifetime of a token, so it is a plain Starlette route.
"""

import json
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary.http import Problem
from ostiary_auth.domain.errors import InvalidClient, OAuthError
from ostiary_auth.domain.oauth.model import EXCHANGE_SCOPE, Client
from ostiary_auth.paths import EXCHANGE_PATH
from ostiary_auth.problems import BASIC_CHALLENGE
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.oauth.client_authentication import credentials_of
from ostiary_auth.services import Services
from ostiary_chassis.bodies import read_json
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID
from ostiary_chassis.problems import ProblemError

_HEADERS = {"Cache-Control": "no-store"}


def exchange_routes(services: Services, dependencies: Dependencies) -> list[Route]:
    async def exchange(request: Request) -> Response:
        """Exchange a session for an access token."""
        request.state.routine = True
        context = dependencies.context(request)
        try:
            client = await services.clients.authenticate(credentials_of(request, {}), context)
        except OAuthError as error:
            raise _refused(error) from None
        _authorise(client)
        presented = _session_of(await read_json(request), services.config.audience)
        entitlement = await services.exchange.entitle(presented)
        access = await services.tokens.for_session(entitlement, context.now)
        session = entitlement.session
        body = {
            "access_token": access.token,
            "expires_in": access.expires_in,
            "session_id": str(session.id),
            "expires_at": session.expires_at.isoformat(),
            "persistent": session.persistent,
        }
        return Response(json.dumps(body), headers=_HEADERS, media_type="application/json")

    return [Route(EXCHANGE_PATH, exchange, methods=["POST"])]


def _refused(error: OAuthError) -> ProblemError:
    if isinstance(error, InvalidClient):
        return ProblemError(Problem(401, error.error, error.description, BASIC_CHALLENGE))
    return ProblemError(Problem(400, error.error, error.description))


def _authorise(client: Client) -> None:
    """Admit the gateways' client only, unless an operator took the scope from it. Raises ProblemError."""
    if client.id != GATEWAYS_CLIENT_ID or EXCHANGE_SCOPE not in client.scopes:
        raise ProblemError(Problem(403, "insufficient_scope", "Only this deployment's gateways exchange sessions."))


def _session_of(members: object, audience: str) -> str:
    """Return the session in a request's body. Raises ProblemError."""
    if not isinstance(members, dict) or not isinstance(session := members.get("session"), str):
        raise _invalid("'session' must be a string")
    if members.get("audience", audience) != audience:
        raise _invalid(f"'audience' must be {audience}, the one of this deployment's tokens")
    return session


def _invalid(fault: str) -> ProblemError:
    return ProblemError(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"Invalid body: {fault}."))
