"""`/session`: logging in and out in a browser, which keeps its session in cookies.

Bodies are JSON from scripts or forms from pages that need none, so these are plain Starlette routes; `openapi`
documents them. Requests that pages of other sites make are refused, with or without cookies: nobody else must log
people in, either.
"""

from http import HTTPStatus
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary.errors import OstiaryError, UndecidableError
from ostiary.http import bearer_token
from ostiary_auth.domain.accounts.service import Login
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import AuthError
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.revocation.model import RevokedNumbers
from ostiary_auth.domain.sessions.model import BrowserGrant
from ostiary_auth.paths import SESSION_END_PATH, SESSION_PATH
from ostiary_auth.problems import on_auth_error
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.routes.prefer_wait import apply_prefer_wait, note_revoked
from ostiary_auth.routes.sessions.browser_models import (
    NOBODY,
    BrowserLoginRequest,
    BrowserSessionResponse,
    CurrentSessionResponse,
)
from ostiary_auth.routes.sessions.cookies import BrowserCookies
from ostiary_auth.routes.sessions.login_forms import Pages, any_form, form_login, is_form, json_login
from ostiary_auth.routes.sessions.models import EndedResponse
from ostiary_auth.services import Services
from ostiary_chassis.problems import ProblemError


def browser_routes(services: Services, dependencies: Dependencies, cookies: BrowserCookies) -> list[Route]:
    browser = _Browser(services, dependencies, cookies)

    async def current(request: Request) -> Response:
        """Tell who is logged in: nobody without a token that is valid."""
        return _json(await browser.current(request))

    async def log_in(request: Request) -> Response:
        """Log in."""
        cookies.check_own_site(request)
        return await (browser.log_in_with_form(request) if is_form(request) else browser.log_in_with_json(request))

    async def log_out(request: Request) -> Response:
        """Log out. Without a session, its cookies are deleted all the same."""
        cookies.check_own_site(request)
        revoked = note_revoked(request, await browser.end(request))
        response = _json(EndedResponse(revoked=len(revoked)))
        cookies.expire_session(response)
        # Anybody may call this: the response must not tell about revocations that are not the caller's.
        return await apply_prefer_wait(services, request, response) if revoked else response

    async def log_out_with_form(request: Request) -> Response:
        """Log out, from a page without scripts."""
        cookies.check_own_site(request)
        pages = Pages.of(await any_form(request))
        await browser.end(request)
        response = _see_other(pages.return_to)
        cookies.expire_session(response)
        return response

    return [
        Route(SESSION_PATH, current, methods=["GET"]),
        Route(SESSION_PATH, log_in, methods=["POST"]),
        Route(SESSION_PATH, log_out, methods=["DELETE"]),
        Route(SESSION_END_PATH, log_out_with_form, methods=["POST"]),
    ]


class _Browser:
    def __init__(self, services: Services, dependencies: Dependencies, cookies: BrowserCookies) -> None:
        self._services = services
        self._dependencies = dependencies
        self._cookies = cookies

    async def current(self, request: Request) -> CurrentSessionResponse:
        """Describe the session of the request's token. Raises UndecidableError."""
        try:
            token = self._dependencies.auth.verifier.verify(bearer_token(request.headers.getlist("authorization")))
        except UndecidableError:
            raise
        except OstiaryError:
            return NOBODY
        if token.session_id is None:
            return NOBODY
        async with self._services.store.read() as transaction:
            user = await transaction.users.get(UUID(token.subject))
            session = await transaction.sessions.get(UUID(token.session_id))
        if user is None or user.disabled_at is not None or session is None or session.ended_at is not None:
            return NOBODY
        return CurrentSessionResponse.of(user, session, token)

    async def log_in_with_json(self, request: Request) -> Response:
        context, outcome = await self._log_in(request, await json_login(request))
        return await self._answer(_json(BrowserSessionResponse.of(outcome.grant)), context, outcome)

    async def log_in_with_form(self, request: Request) -> Response:
        """Log in. A success leads to where the page says, a failure back to the page."""
        form = await any_form(request)
        pages = Pages.of(form)
        try:
            context, outcome = await self._log_in(request, form_login(form))
        except AuthError as error:
            response = await on_auth_error(request, error)
            return _see_other(pages.after_failure(error.code)) if pages.login_page else response
        except ProblemError as error:
            if not pages.login_page:
                raise
            return _see_other(pages.after_failure(error.problem.code))
        return await self._answer(_see_other(pages.return_to), context, outcome)

    async def end(self, request: Request) -> RevokedNumbers:
        """End the session of the request's cookie, with which its token has nothing to do: it may have expired."""
        proof = self._cookies.proof(request)
        return await self._services.sessions.end_by_proof(proof, self._dependencies.context(request)) if proof else ()

    async def _log_in(self, request: Request, login: BrowserLoginRequest) -> tuple[Context, Login[BrowserGrant]]:
        context = self._dependencies.context(request)
        outcome = await self._services.accounts.log_in_with_browser(
            login.email,
            login.password,
            self._cookies.device(request),
            FIRST_PARTY_CLIENT_ID,
            context,
            persistent=login.remember,
            replaced=self._cookies.proof(request),
        )
        return context, outcome

    async def _answer(self, response: Response, context: Context, outcome: Login[BrowserGrant]) -> Response:
        access = await self._services.tokens.for_session(outcome.grant, context.now)
        self._cookies.set_session(response, outcome.grant, access, context.now)
        self._cookies.set_device(response, outcome.device_token)
        return response


def _json(body: BaseModel) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(body.model_dump_json(exclude_unset=True), headers=headers, media_type="application/json")


def _see_other(path: str) -> Response:
    return Response(status_code=HTTPStatus.SEE_OTHER, headers={"Location": path, "Cache-Control": "no-store"})
