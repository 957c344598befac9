"""Reading forms (`application/x-www-form-urlencoded`)."""

from collections.abc import Mapping
from urllib.parse import unquote_plus

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
        pairs = _parse((await request.body()).decode("ascii"))
    except ValueError:
        raise OAuthError("invalid_request", "The body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "A parameter stands in the form twice.")
    if any("\0" in value for value in form.values()):
        raise OAuthError("invalid_request", "A parameter holds a NUL character.")
    return {name: value for name, value in form.items() if value}


def _parse(body: str) -> list[tuple[str, str]]:
    """Return the pairs of a form. Raises ValueError for what is none, or has too many."""
    parts = body.split("&", MAX_PARAMETERS) if body else []
    if len(parts) > MAX_PARAMETERS or not all("=" in part for part in parts):
        raise ValueError
    return [(_decode(name), _decode(value)) for name, _, value in (part.partition("=") for part in parts)]


def _decode(text: str) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text


def required(form: Form, name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"The parameter '{name}' is missing.")
    return form[name]
