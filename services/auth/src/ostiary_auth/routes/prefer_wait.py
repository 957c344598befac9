"""`Prefer: wait=S` (RFC 7240) on calls that revoke something: the answer comes when that is in force everywhere."""

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.routes.revocation.models import InForceResponse
from ostiary_auth.services import Services

#: Seconds that a call waits at most; gateways give up after 30.
MAX_WAIT_SECONDS = 20

#: RFC 7240 section 2: preferences divided by commas, each a name and perhaps a value, which may be quoted.
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;|\Z)', re.IGNORECASE)

#: What the OpenAPI document says of it.
PARAMETER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=S`: answer when the revocation is in force with every verifier, or after S seconds"
    f" ({MAX_WAIT_SECONDS} at most).",
    "schema": {"type": "string", "examples": ["wait=5"]},
}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def prefer_wait_route(services: Services) -> type[APIRoute]:
    """Return the kind of route that revokes something, and waits for that to be in force if it is asked to."""

    class PreferWaitRoute(APIRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            options["openapi_extra"] = {"parameters": [PARAMETER]}
            if options.get("status_code") == 204:  # noqa: PLR2004 - HTTP
                waited = {"model": InForceResponse, "description": "The same, waited for."}
                options["responses"] = {**(options.get("responses") or {}), 200: waited}
            super().__init__(path, endpoint, **options)

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_and_wait(request: Request) -> Response:
                return await apply_prefer_wait(services, request, await handle(request))

            return handle_and_wait

    return PreferWaitRoute


def note_revoked(request: Request, revoked: RevokedNumbers) -> RevokedNumbers:
    """Keep what a request has revoked until its response is made. Every call of a `prefer_wait_route` needs it."""
    request.state.revoked = revoked
    return revoked


async def apply_prefer_wait(services: Services, request: Request, response: Response) -> Response:
    """Return the response at once, or when what the request has revoked is in force, and with how far that is."""
    committed_at = services.clock.monotonic()
    seconds = _preferred_wait(request.headers.getlist("prefer"))
    if seconds is None or response.status_code >= 300:  # noqa: PLR2004 - HTTP
        return response
    revoked: RevokedNumbers = request.state.revoked
    if not revoked:
        # Then it is about all that was before.
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
    return Response(json.dumps(waited), headers=headers, media_type="application/json")


def _preferred_wait(fields: Sequence[str]) -> int | None:
    """Return the seconds of the first `wait` that can be read; a preference that cannot is none (section 2)."""
    for preference in ",".join(fields).split(","):
        match = _WAIT.match(preference)
        if match:
            return min(int(match[1]), MAX_WAIT_SECONDS)
    return None
