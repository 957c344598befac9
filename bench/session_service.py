"""The services behind the gateway in `session_or_jwt.py`: `python session_service.py '{"kind": ..., ...}'`.

Each answers `GET /profile` as the applications in `peers_node` do, and lets `POST /profile` change the name. With
Starlette, the check is `ostiary.asgi`; with FastAPI, it is `ostiary.fastapi`. Without an `auth_port`, there is none.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import uvicorn
from common import HOST
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ostiary import Feed, Verifier, VerifierConfig
from ostiary.asgi import BearerAuth
from ostiary.fastapi import Auth

AUDIENCE, VERIFIERS_CLIENT = "ostiary", "ostiary-verifiers"
SCOPES = ("profile:read",)

Kind = Literal["starlette", "fastapi"]

PROFILE = {
    "id": "bfb82411-0795-45e1-82a2-5972fbfea156",
    "display_name": "Ada Lovelace",
    "bio": "Writes programs for engines that do not exist yet.",
    "website": "https://example.com/ada",
    "updated_at": "2026-11-29T12:00:00Z",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Which service to run, and what it verifies tokens with."""

    kind: Kind
    port: int
    issuer: str = ""
    auth_port: int = 0
    feed_secret: str = ""

    def verifier(self) -> Verifier:
        url = f"http://{HOST}:{self.auth_port}"
        feed = Feed(url=f"{url}/feed", client_id=VERIFIERS_CLIENT, secret_file=self.feed_secret, name="profile")
        keys = f"{url}/.well-known/jwks.json"
        return Verifier(VerifierConfig(issuer=self.issuer, audience=AUDIENCE, jwks_url=keys, feed=feed))


async def read(_request: Request) -> Response:
    return JSONResponse(PROFILE)


async def change(request: Request) -> Response:
    PROFILE["display_name"] = str((await request.form())["display_name"])
    return JSONResponse(PROFILE)


async def page(_request: Request) -> Response:
    return HTMLResponse("<!doctype html><title>Profile</title>")


async def nobody() -> None:
    """Require nothing."""


def starlette(settings: Settings) -> Any:
    profile = [Route("/profile", read, methods=["GET"]), Route("/profile", change, methods=["POST"])]
    app = Starlette(routes=[*profile, Route("/", page)])
    return BearerAuth(app, settings.verifier(), scopes=SCOPES, public=["/"]) if settings.auth_port else app


def fastapi(settings: Settings) -> Any:
    if not settings.auth_port:
        app, login = FastAPI(), Depends(nobody)
    else:
        auth = Auth(settings.verifier())
        app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)
        login = Depends(auth.require(scopes=SCOPES))

    @app.get("/profile")
    async def profile(_caller: Annotated[Any, login]) -> dict[str, str]:
        return PROFILE

    return app


def main(arguments: Sequence[str]) -> None:
    settings = Settings(**json.loads(arguments[0]))
    app = {"starlette": starlette, "fastapi": fastapi}[settings.kind](settings)
    uvicorn.run(app, host=HOST, port=settings.port, loop="uvloop", access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
