"""The adapter for FastAPI.

auth = Auth(Verifier(VerifierConfig(issuer=..., audience=..., jwks_url=...)))
app = FastAPI(lifespan=auth.lifespan, exception_handlers=auth.exception_handlers)

@app.get("/orders")
async def orders(token: Annotated[VerifiedToken, Depends(auth.require(scopes=["orders:read"]))]): ...
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.security import HTTPBearer

from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier
from ostiary.errors import OstiaryError
from ostiary.http import PROBLEM_JSON, Problem, bearer_token, problem_for

#: Puts the scheme into the OpenAPI document; the token is read by ourselves, strictly.
_bearer_scheme = HTTPBearer(bearerFormat="JWT", scheme_name="bearer", auto_error=False)


def problem_response(problem: Problem) -> Response:
    """Return a problem as a response."""
    return Response(problem.to_json(), problem.status, dict(problem.headers), PROBLEM_JSON)


class Auth:
    """Access tokens for the routes of a FastAPI application."""

    def __init__(self, verifier: Verifier) -> None:
        """Bind the adapter to a verifier."""
        self.verifier = verifier

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Run the verifier as long as the application. A lifespan of one's own can enter the verifier itself."""
        async with self.verifier:
            yield

    @property
    def exception_handlers(
        self,
    ) -> dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]:
        """The handlers that turn this package's errors into problem documents."""
        return {OstiaryError: _handle}

    def require(
        self, *, scopes: Collection[str] = (), roles: Collection[str] = ()
    ) -> Callable[..., Awaitable[VerifiedToken]]:
        """Return a dependency that yields the verified token of a caller with all these scopes and roles."""
        required_scopes, required_roles = frozenset(scopes), frozenset(roles)

        async def verified_token(
            request: Request, _documented: Annotated[object, Security(_bearer_scheme)]
        ) -> VerifiedToken:
            token = self.verifier.verify(bearer_token(request.headers.getlist("authorization")))
            token.require(scopes=required_scopes, roles=required_roles)
            return token

        return verified_token


async def _handle(_request: Request, error: OstiaryError) -> Response:
    return problem_response(problem_for(error))
