"""The adapter for FastAPI.

auth = Auth(Verifier(VerifierConfig(issuer=..., audience=..., jwks_url=...)))
app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)

@app.get("/orders")
async def orders(token: Annotated[VerifiedToken, Depends(auth.require(scopes=["orders:read"]))]): ...
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from types import EllipsisType
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.security import HTTPBearer

from ostiary._credentials import credential_of
from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier
from ostiary.asgi import BY_COOKIE, MAX_STALENESS, TOKEN
from ostiary.browser import BrowserCookies
from ostiary.errors import OstiaryError
from ostiary.http import PROBLEM_JSON, Problem, problem_for

#: Documents the scheme in OpenAPI. The credential itself is read by `credential_of`, strictly.
_SCHEME, _COOKIE_SCHEME = "bearer", "cookie"
_bearer_scheme = HTTPBearer(bearerFormat="JWT", scheme_name=_SCHEME, auto_error=False)


def problem_response(problem: Problem) -> Response:
    """Return the response for a problem."""
    return Response(problem.to_json(), problem.status, dict(problem.headers), PROBLEM_JSON)


def extend_openapi(app: FastAPI, add: Callable[[dict[str, Any]], None]) -> None:
    """Call `add` once with the OpenAPI document of an application, when it has been generated."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        is_cached = app.openapi_schema is not None
        document = generate()
        if not is_cached:
            add(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


class Auth:
    """Access tokens for the routes of a FastAPI application."""

    def __init__(self, verifier: Verifier, *, cookies: BrowserCookies | None = None) -> None:
        """With `cookies`, requests may also be authenticated by the cookies of a browser's session."""
        self.verifier = verifier
        self._cookies = cookies

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the verifier as long as the application, and document the errors of protected operations.

        A custom lifespan has to enter `verifier` and to call `document`.
        """
        self.document(app)
        async with self.verifier:
            yield

    def document(self, app: FastAPI) -> None:
        """Add the responses 401, 403 and 503, and cookies, to the protected operations in the OpenAPI document."""
        extend_openapi(app, self._add_to)

    @property
    def exception_handlers(
        self,
    ) -> dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]:
        """Handlers that turn this package's errors into problem documents."""
        return {OstiaryError: _handle}

    def require(
        self,
        *,
        scopes: Collection[str] = (),
        roles: Collection[str] = (),
        max_staleness: float | EllipsisType | None = ...,
    ) -> Callable[..., Awaitable[VerifiedToken]]:
        """Return a dependency that yields the verified token of a caller with all of these scopes and roles.

        `max_staleness` is the age in seconds that revocations may have, None for any; by default, the verifier's own.
        """
        required_scopes, required_roles = frozenset(scopes), frozenset(roles)
        bound = self.verifier.require_staleness(max_staleness)
        documented = Security(_bearer_scheme, scopes=sorted(required_scopes))

        async def verified_token(
            request: Request, response: Response, _documented: Annotated[object, documented]
        ) -> VerifiedToken:
            credential = credential_of(request.method, request.headers.raw, self._cookies)
            token = self.verifier.verify(credential.token, max_staleness=bound)
            credential.check_session(token)
            token.require(scopes=required_scopes, roles=required_roles)
            # For `EndWithToken`.
            request.scope[TOKEN], request.scope[MAX_STALENESS] = token, bound
            if credential.is_cookie:
                request.scope[BY_COOKIE] = True
                response.headers["Cache-Control"], response.headers["Vary"] = "private", "Cookie"
            return token

        return verified_token

    def _add_to(self, document: dict[str, Any]) -> None:
        protected = _protected(document)
        if protected:
            components = document["components"]
            components.setdefault("schemas", {}).setdefault("Problem", PROBLEM_SCHEMA)
            if self._cookies is not None:
                components["securitySchemes"][_COOKIE_SCHEME] = _cookie_scheme(self._cookies)
        for operation in protected:
            for status, description in _RESPONSES.items():
                operation["responses"].setdefault(status, {"description": description, "content": PROBLEM_CONTENT})
            if self._cookies is not None:
                # Either of them will do.
                operation["security"] += [
                    {_COOKIE_SCHEME: needed[_SCHEME]} for needed in operation["security"] if needed.keys() == {_SCHEME}
                ]


#: The schema of problem documents in OpenAPI, and the content of a response that is one.
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "A stable code for programs."},
        "detail": {"type": "string"},
    },
    "example": {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "code": "expired",
        "detail": "The access token has expired.",
    },
}
PROBLEM_CONTENT: dict[str, Any] = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}

_RESPONSES = {
    "401": "The access token is missing or invalid; a new one may help.",
    "403": "The access token does not permit this.",
    "503": "The access token cannot be verified at the moment; retry with the same one.",
}


def _protected(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        operation
        for path in document.get("paths", {}).values()
        for operation in path.values()
        if isinstance(operation, dict) and any(_SCHEME in needed for needed in operation.get("security", []))
    ]


def _cookie_scheme(cookies: BrowserCookies) -> dict[str, str]:
    name = cookies.names.session.decode()
    return {"type": "apiKey", "in": "cookie", "name": name, "description": "The session of a browser."}


async def _handle(_request: Request, error: OstiaryError) -> Response:
    return problem_response(problem_for(error))
