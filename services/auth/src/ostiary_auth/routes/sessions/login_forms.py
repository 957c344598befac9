"""The body of `POST /session`: JSON from scripts, or a form from pages that need none."""

from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request

from ostiary.browser import is_return_path
from ostiary.http import Problem
from ostiary_auth.domain.errors import OAuthError
from ostiary_auth.routes.oauth.forms import Form, read_form
from ostiary_auth.routes.sessions.browser_models import BrowserLoginRequest
from ostiary_chassis.bodies import read_json
from ostiary_chassis.media_types import FORM, JSON, MediaType, is_json
from ostiary_chassis.problems import ProblemError

#: What a page's form sends for a session that ends with the browser; anything else is one that stays.
_NOT_REMEMBERED = frozenset({"false", "0", "off", "no"})

#: The parameters that must not be repeated. Browsers send nothing for a checkbox that is not checked, so pages put a
#: hidden field with the other value before `remember`, of which the last value counts. Others are the page's affair.
_ONCE = frozenset({"email", "password", "return_to", "login_page"})


_UNSUPPORTED_MEDIA_TYPE = Problem(
    415, "unsupported_media_type", f"Send JSON or a form in UTF-8, with 'Content-Type: {JSON}' or '{FORM}'."
)


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a form's answer leads."""

    return_to: str = "/"
    #: Where a failure leads; "" if it is answered with a problem.
    login_page: str = ""

    @classmethod
    def of(cls, form: Form) -> "Pages":
        """Return the paths in a form. Anything but a path of this origin is as absent."""
        return_to, login_page = form.get("return_to", ""), form.get("login_page", "")
        return cls(return_to if is_return_path(return_to) else "/", login_page if is_return_path(login_page) else "")

    def after_failure(self, code: str) -> str:
        """Return the login page, told what went wrong and where to go on."""
        page, hash_sign, fragment = self.login_page.partition("#")
        query = urlencode({"error": code, "return_to": self.return_to})
        return f"{page}{'&' if '?' in page else '?'}{query}{hash_sign}{fragment}"


def is_form(request: Request) -> bool:
    return MediaType.of(request).name == FORM


async def json_login(request: Request) -> BrowserLoginRequest:
    """Parse JSON. Raises ProblemError or RequestValidationError."""
    if not is_json(request):
        raise ProblemError(_UNSUPPORTED_MEDIA_TYPE)
    try:
        return BrowserLoginRequest.model_validate(await read_json(request))
    except ValidationError as error:
        items = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in items]) from None


async def any_form(request: Request) -> Form:
    """Return the parameters of a form, which may be empty. Raises ProblemError."""
    if not await request.body():
        return {}
    if not MediaType.of(request).is_utf_8:
        raise ProblemError(_UNSUPPORTED_MEDIA_TYPE)
    try:
        return await read_form(request, _ONCE)
    except OAuthError as error:
        raise invalid(error.description) from None


def form_login(form: Form) -> BrowserLoginRequest:
    """Return the credentials in a form. Raises ProblemError; other parameters are the page's own affair."""
    try:
        return BrowserLoginRequest(
            email=form.get("email", ""),
            password=form.get("password", ""),
            remember=form.get("remember", "").lower() not in _NOT_REMEMBERED,
        )
    except ValidationError as error:
        field, message = error.errors()[0]["loc"][-1:], error.errors()[0]["msg"]
        raise invalid(f"{field[0] if field else 'The form'}: {message}.") from None


def invalid(detail: str) -> ProblemError:
    return ProblemError(Problem(422, "invalid_request", detail))
