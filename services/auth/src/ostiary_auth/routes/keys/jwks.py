"""`/.well-known/jwks.json`: the public keys."""

from fastapi import APIRouter, Request, Response
from starlette.routing import BaseRoute

from ostiary_auth.services import Services
from ostiary_chassis.bodies import StrictRoute


def jwks_routes(services: Services) -> list[BaseRoute]:
    router = APIRouter(prefix="/.well-known", tags=["discovery"], route_class=StrictRoute)
    max_age = services.config.jwks_max_age

    @router.get("/jwks.json", responses={304: {"description": "Not modified."}})
    async def jwks(request: Request) -> Response:
        """Return the public keys (RFC 7517 section 5)."""
        ring = services.local_keys.ring()
        headers = {"Cache-Control": f"public, max-age={max_age}", "ETag": ring.etag}
        if _matches(request.headers.get("if-none-match", ""), ring.etag):
            return Response(status_code=304, headers=headers)
        return Response(ring.document, headers=headers, media_type="application/json")

    return router.routes


def _matches(if_none_match: str, etag: str) -> bool:
    """Compare ETags weakly (RFC 9110 section 13.1.2)."""
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return etag in candidates or candidates == ["*"]
