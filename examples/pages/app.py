"""Server-rendered pages behind the gateway, without a script, a session store, or a token of their own.

    uvicorn --factory --app-dir examples/pages app:create_app --port 8084

People sign in with a form that posts to `/session`. The gateway turns the cookies that they get into an access token,
which is verified here, and with which these pages ask other services on behalf of their reader. Forms need no token
against forged requests, either: the gateway refuses what pages of other sites send.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import APIRouter, FastAPI, Form, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from ostiary import Feed, VerifiedToken, Verifier, VerifierConfig
from ostiary.browser import is_return_path
from ostiary.errors import OstiaryError
from ostiary.http import bearer_token, problem_for

HERE = Path(__file__).parent

#: Seconds to wait for the profile service.
PATIENCE = 10.0

SIGN_IN = "/pages/sign-in"
PROFILE = "/pages/profile"

#: No page of these is in a cache, or comes back with the back button when its reader has signed out.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

#: What the form says that could not sign somebody in, by the code that `/session` gives.
SIGN_IN_ERRORS = {
    "invalid_credentials": "That email and password don't match an account. Check both.",
    "invalid_request": "Enter your email address and your password.",
    "too_many_attempts": "There were too many attempts. Wait a few minutes, then try again.",
    "session_ended": "You've been signed out. Sign in to go on.",
}
OTHER_SIGN_IN_ERROR = "That didn't work because something on our side doesn't answer. Try again in a moment."

Parameter = Annotated[str, Query()]
Field = Annotated[str, Form()]


def create_app(environ: Mapping[str, str] = os.environ) -> FastAPI:
    """Return the application; its settings are those of all services (docs/reference/settings.md)."""
    verifier = Verifier(_verifier_config(environ))
    profiles = httpx.AsyncClient(
        base_url=environ.get("OSTIARY_PROFILE_URL") or "http://127.0.0.1:8082", timeout=PATIENCE, trust_env=False
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # A terminal that closes ends nothing.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        async with profiles, verifier:
            yield

    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False, exception_handlers=_error_pages()
    )
    reader = _reader(verifier)
    app.include_router(_pages_for_everybody(reader))
    app.include_router(_profile_pages(reader, profiles))

    @app.get("/livez", include_in_schema=False)
    async def livez() -> None:
        """Say that the process lives."""

    @app.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> None:
        response.status_code = HTTPStatus.OK if verifier.ready else HTTPStatus.SERVICE_UNAVAILABLE

    return app


#: Returns who asks; None for somebody without a token. Raises OstiaryError for a token that does not count.
_Reader = Callable[[Request], VerifiedToken | None]


def _reader(verifier: Verifier) -> _Reader:
    def reader(request: Request) -> VerifiedToken | None:
        fields = request.headers.getlist("authorization")
        return verifier.verify(bearer_token(fields)) if fields else None

    return reader


def _pages_for_everybody(reader: _Reader) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/pages")
    async def home(request: Request) -> Response:
        return _page(request, "home.html", is_signed_in=reader(request) is not None)

    @router.get(SIGN_IN)
    async def sign_in(request: Request, return_to: Parameter = "", error: Parameter = "") -> Response:
        return_to = return_to if is_return_path(return_to) else "/pages"
        if reader(request) is not None:
            return RedirectResponse(return_to, HTTPStatus.SEE_OTHER, HEADERS)
        message = SIGN_IN_ERRORS.get(error, OTHER_SIGN_IN_ERROR) if error else ""
        return _page(request, "sign_in.html", return_to=return_to, login_page=SIGN_IN, message=message)

    @router.get("/pages/style.css")
    async def style() -> Response:
        return FileResponse(HERE / "style.css", headers={"Cache-Control": "no-cache"})

    return router


def _profile_pages(reader: _Reader, profiles: httpx.AsyncClient) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get(PROFILE)
    async def profile(request: Request, saved: Parameter = "") -> Response:
        response = await profiles.get("/profiles/me", headers=_on_behalf(request, reader(request)))
        _check(response)
        return _profile_page(request, {**response.json(), "etag": response.headers["etag"]}, is_saved=saved == "1")

    @router.post(PROFILE)
    async def change(
        request: Request, display_name: Field = "", bio: Field = "", website: Field = "", etag: Field = ""
    ) -> Response:
        values = {"display_name": display_name, "bio": bio.replace("\r\n", "\n"), "website": website}
        token = reader(request)
        if token is None:
            # Their session ended while they typed. What they typed stays.
            return _profile_page(request, {**values, "etag": etag}, HTTPStatus.UNAUTHORIZED, is_signed_out=True)
        headers = _on_behalf(request, token)
        change = {name: value.strip() or None for name, value in values.items()}
        response = await profiles.patch("/profiles/me", json=change, headers={**headers, "If-Match": etag or "*"})
        match response.status_code:
            case HTTPStatus.PRECONDITION_FAILED:
                # The next attempt is about the profile as it is now.
                current = await profiles.get("/profiles/me", headers=headers)
                _check(current)
                values["etag"] = current.headers["etag"]
                return _profile_page(request, values, HTTPStatus.CONFLICT, is_outdated=True)
            case HTTPStatus.UNPROCESSABLE_ENTITY:
                errors = {each["field"]: _sentence(each["message"]) for each in response.json()["errors"]}
                return _profile_page(request, {**values, "etag": etag}, HTTPStatus.UNPROCESSABLE_ENTITY, errors=errors)
        _check(response)
        return RedirectResponse(f"{PROFILE}?saved=1", HTTPStatus.SEE_OTHER, HEADERS)

    return router


def _on_behalf(request: Request, token: VerifiedToken | None) -> dict[str, str]:
    """Return the header fields for asking another service as this page's reader: it verifies their token itself."""
    if token is None:
        raise HTTPException(HTTPStatus.UNAUTHORIZED)
    return {"Authorization": request.headers["authorization"]}


def _check(response: httpx.Response) -> None:
    """Raise HTTPException unless another service did what it was asked for."""
    if response.is_error:
        is_ended = response.status_code == HTTPStatus.UNAUTHORIZED
        raise HTTPException(HTTPStatus.UNAUTHORIZED if is_ended else HTTPStatus.SERVICE_UNAVAILABLE)


_templates = Jinja2Templates(HERE / "templates")


def _page(request: Request, name: str, status: int = HTTPStatus.OK, **context: Any) -> Response:
    return _templates.TemplateResponse(request, name, context, status, HEADERS)


def _profile_page(request: Request, values: Mapping[str, Any], status: int = HTTPStatus.OK, **context: Any) -> Response:
    is_signed_in = not context.get("is_signed_out")
    return _page(request, "profile.html", status, profile=values, is_signed_in=is_signed_in, sign_in=SIGN_IN, **context)


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:]}."


#: What the page of an error says: a heading, and what to do.
_ERRORS = {
    401: ("You're signed out", "Sign in to see this page."),
    404: ("There is no such page", "Check the address, or begin at the home page."),
    503: ("This page can't be shown now", "Something on our side doesn't answer. You're still signed in."),
    500: ("This page can't be shown", "Something on our side is broken, and we have a note of it."),
}

#: Seconds until a page that could not be shown asks again, once.
_RETRY_SECONDS = 5


def _error_pages() -> dict[int | type[Exception], Any]:
    async def on_http(request: Request, error: HTTPException) -> Response:
        return _error_page(request, error.status_code)

    async def on_token(request: Request, error: OstiaryError) -> Response:
        return _error_page(request, problem_for(error).status)

    async def on_silence(request: Request, _error: httpx.HTTPError) -> Response:
        return _error_page(request, HTTPStatus.SERVICE_UNAVAILABLE)

    async def on_defect(request: Request, _error: Exception) -> Response:
        return _error_page(request, HTTPStatus.INTERNAL_SERVER_ERROR)

    return {HTTPException: on_http, OstiaryError: on_token, httpx.HTTPError: on_silence, Exception: on_defect}


def _error_page(request: Request, status: int) -> Response:
    heading, text = _ERRORS.get(status, _ERRORS[500])
    is_away = status == HTTPStatus.SERVICE_UNAVAILABLE
    may_retry = is_away and request.method == "GET" and "again" not in request.query_params
    response = _page(
        request,
        "error.html",
        status,
        heading=heading,
        text=text,
        sign_in=SIGN_IN if status == HTTPStatus.UNAUTHORIZED else "",
        retry=f"{_RETRY_SECONDS}; url={quote(request.url.path)}?again=1" if may_retry else "",
    )
    if is_away:
        response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def _verifier_config(environ: Mapping[str, str]) -> VerifierConfig:
    auth = (environ.get("OSTIARY_AUTH_URL") or "http://127.0.0.1:8081").split(",")
    secret = environ.get("OSTIARY_FEED_SECRET_FILE") or ".data/feed-secret"
    return VerifierConfig(
        issuer=environ.get("OSTIARY_ISSUER") or "http://localhost:8080",
        audience=environ.get("OSTIARY_AUDIENCE") or "ostiary",
        jwks_url=[f"{url.strip()}/.well-known/jwks.json" for url in auth],
        feed=Feed(
            url=[f"{url.strip()}/feed" for url in auth], client_id="ostiary-verifiers", secret_file=secret, name="pages"
        ),
    )
