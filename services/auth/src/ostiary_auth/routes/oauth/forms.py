"""Parsing of forms (`application/x-www-form-urlencoded`)."""

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from ostiary_auth.domain.errors import OAuthError
from ostiary_chassis.media_types import FORM, MediaType

#: Maximum number of parameters; ours have at most eight.
MAX_PARAMETERS = 32

#: The parameters that the OAuth endpoints know, which must not be repeated (RFC 6749 section 3.2). Others are ignored.
PARAMETERS = frozenset(
    {
        *("grant_type", "scope", "audience", "refresh_token", "token", "token_type_hint"),
        *("client_id", "client_secret", "client_assertion", "client_assertion_type"),
    }
)

Form = Mapping[str, str]


async def read_form(request: Request, once: Collection[str]) -> Form:
    """Return the parameters of a form. Those without a value count as omitted (RFC 6749 section 3.1).

    Those in `once` must not be repeated; of others, the last value counts. Raises OAuthError.
    """
    media_type = MediaType.of(request)
    if media_type.name != FORM or not media_type.is_utf_8:
        raise OAuthError("invalid_request", f"The body must be a form in UTF-8 with 'Content-Type: {FORM}'.")
    try:
        # Empty parameters, as in `a=1&&b=2`, count for nothing (URL Standard, section 5.1).
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise OAuthError(
            "invalid_request", f"The body must be a valid form of at most {MAX_PARAMETERS} parameters."
        ) from None
    form = dict(pairs)
    names = [name for name, _ in pairs if name in once]
    if len(set(names)) != len(names):
        raise OAuthError("invalid_request", "Duplicate parameter.")
    if any("\0" in value for value in form.values()):
        raise OAuthError("invalid_request", "A parameter contains a NUL character.")
    return {name: value for name, value in form.items() if value}


def required(form: Form, name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"Missing parameter '{name}'.")
    return form[name]
