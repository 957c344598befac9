"""Parsing of forms (`application/x-www-form-urlencoded`)."""

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from ostiary_auth.domain.errors import OAuthError

#: Maximum number of parameters; ours have at most eight.
MAX_PARAMETERS = 32

FORM = "application/x-www-form-urlencoded"

Form = Mapping[str, str]


def media_type(request: Request) -> str:
    """Return the media type of a request's body, in lower case and without parameters; "" if it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(request: Request, repeatable: Collection[str] = ()) -> Form:
    """Return the parameters of a form. Those without a value count as omitted (RFC 6749 section 3.1).

    Of those that are `repeatable`, the last value counts. Raises OAuthError.
    """
    if media_type(request) != FORM:
        raise OAuthError("invalid_request", f"The body must be a form with 'Content-Type: {FORM}'.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise OAuthError(
            "invalid_request", f"The body must be a valid form of at most {MAX_PARAMETERS} parameters."
        ) from None
    form = dict(pairs)
    names = [name for name, _ in pairs if name not in repeatable]
    if len(set(names)) != len(names):
        raise OAuthError("invalid_request", "Duplicate parameter.")
    if any("\0" in value for value in form.values()):
        raise OAuthError("invalid_request", "A parameter contains a NUL character.")
    return {name: value for name, value in form.items() if value}


def required(form: Form, name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"Missing parameter '{name}'.")
    return form[name]
