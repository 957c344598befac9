"""`Prefer: wait=S` (RFC 7240) on operations that revoke.

The response is sent when the revocation is in force everywhere, or when the time is over.
"""

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.routes.revocation.models import InForceResponse
from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute

#: Maximum wait in seconds: longer than the default lease of a verifier that has vanished, which is 30, and than it
#: takes to notice that. Whatever passes requests on must wait longer for the response.
MAX_WAIT_SECONDS = 40

#: RFC 7240 section 2: comma-separated preferences, each with an optional value, which may be quoted.
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;|\Z)', re.IGNORECASE)

#: The header in the OpenAPI document.
PARAMETER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=S`: respond when the revocation is in force with every verifier, or after S seconds"
    f" (at most {MAX_WAIT_SECONDS}).",
    "schema": {"type": "string", "examples": ["wait=5"]},
}

#: What the response goes on to have: a session's cookies and what comes with them.
_KEPT = frozenset({b"set-cookie", b"clear-site-data"})

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def prefer_wait_route(services: Services) -> type[APIRoute]:
    """Return a route class for operations that revoke, which supports `Prefer: wait`."""

    class PreferWaitRoute(StrictRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            options["openapi_extra"] = {"parameters": [PARAMETER]}
            if options.get("status_code") == 204:  # noqa: PLR2004 - HTTP
                waited = {
                    "model": InForceResponse,
                    "description": "With `Prefer: wait`: how far the revocation is in force.",
                }
                options["responses"] = {**(options.get("responses") or {}), 200: waited}
            super().__init__(path, endpoint, **options)

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_and_wait(request: Request) -> Response:
                return await apply_prefer_wait(services, request, await handle(request))

            return handle_and_wait

    return PreferWaitRoute


def note_revoked(request: Request, revoked: RevokedNumbers) -> RevokedNumbers:
    """Keep the revocations of a request for its response. Every operation on a `prefer_wait_route` has to call it."""
    request.state.revoked = revoked
    return revoked


async def apply_prefer_wait(services: Services, request: Request, response: Response) -> Response:
    """Return the response at once or, if preferred, with the result of waiting for the request's revocations."""
    committed_at = services.clock.monotonic()
    seconds = _preferred_wait(request.headers.getlist("prefer"))
    if seconds is None or response.status_code >= 300:  # noqa: PLR2004 - HTTP
        return response
    revoked: RevokedNumbers = request.state.revoked
    if not revoked:
        # Then wait for all previous revocations.
        await services.feed.refresh()
    cursor = max(revoked, default=services.feed.number)
    found = await services.verifiers.in_force(cursor, committed_at, seconds)
    body = json.loads(bytes(response.body) or b"{}")
    waited = {
        "revoked": len(revoked),
        **body,
        "cursor": cursor,
        "acknowledged_by": found.acknowledged_by,
        "in_force_after_ms": None if found.after_ms is None else round(found.after_ms, 1),
        "complete": found.complete,
    }
    headers = {"Preference-Applied": "wait", "Cache-Control": "no-store"}
    answer = Response(json.dumps(waited), headers=headers, media_type="application/json")
    answer.raw_headers += [field for field in response.raw_headers if field[0] in _KEPT]
    return answer


def _preferred_wait(fields: Sequence[str]) -> int | None:
    """Return the seconds of the first valid `wait`. An invalid preference is ignored (RFC 7240 section 2)."""
    for preference in ",".join(fields).split(","):
        match = _WAIT.match(preference)
        if match:
            return min(int(match[1]), MAX_WAIT_SECONDS)
    return None
