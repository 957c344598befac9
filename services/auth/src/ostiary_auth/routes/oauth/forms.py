"""Reading forms (`application/x-www-form-urlencoded`)."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from ostiary_auth.domain.errors import OAuthError

#: Parameters of a form; ours have eight at most.
MAX_PARAMETERS = 32

_FORM = "application/x-www-form-urlencoded"

Form = Mapping[str, str]


async def read_form(request: Request) -> Form:
    """Return the parameters of a form; those without a value count as not sent (RFC 6749 section 3.1).

    Raises OAuthError.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _FORM:
        raise OAuthError("invalid_request", f"Send a form, with 'Content-Type: {_FORM}'.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise OAuthError("invalid_request", "The body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "A parameter stands in the form twice.")
    if any("\0" in value for value in form.values()):
        raise OAuthError("invalid_request", "A parameter holds a NUL character.")
    return {name: value for name, value in form.items() if value}


def required(form: Form, name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"The parameter '{name}' is missing.")
    return form[name]
