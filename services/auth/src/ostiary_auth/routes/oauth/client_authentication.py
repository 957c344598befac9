"""Client credentials in requests (RFC 6749 section 2.3, RFC 7523 section 2.2)."""

import base64
from urllib.parse import unquote_plus

from starlette.requests import Request

from ostiary_auth.domain.errors import InvalidClient, OAuthError
from ostiary_auth.domain.oauth.model import Credentials
from ostiary_auth.routes.oauth.forms import Form

#: RFC 7523 section 2.2.
JWT_BEARER_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def credentials_of(request: Request, form: Form) -> Credentials:
    """Return the credentials of a request, which must use one method only (RFC 6749 section 2.3). Raises OAuthError."""
    assertion = form.get("client_assertion")
    if (assertion is not None) != ("client_assertion_type" in form):
        raise OAuthError("invalid_request", "'client_assertion' and 'client_assertion_type' must be sent together.")
    if assertion is not None and form["client_assertion_type"] != JWT_BEARER_ASSERTION:
        raise OAuthError("invalid_request", f"'client_assertion_type' must be {JWT_BEARER_ASSERTION}.")
    fields = request.headers.getlist("authorization")
    ways = len(fields) + ("client_secret" in form) + (assertion is not None)
    if ways > 1:
        raise OAuthError("invalid_request", "More than one client authentication method; use one.")
    if not fields:
        return Credentials(form.get("client_id"), form.get("client_secret"), assertion)
    client_id, secret = _basic(fields[0])
    if form.get("client_id") not in {None, client_id}:
        raise OAuthError("invalid_request", "'client_id' differs from the client in the Authorization header.")
    return Credentials(client_id, secret)


def _basic(field: str) -> tuple[str, str]:
    """Return the client id and secret, which are form-encoded before they are joined (RFC 6749 section 2.3.1).

    Raises InvalidClient.
    """
    scheme, _, encoded = field.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise InvalidClient("Unsupported authentication scheme; use Basic, or send credentials in the form.")
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except ValueError:  # not base64, or not UTF-8 within
        raise InvalidClient("Malformed Basic credentials.") from None
    if not colon or not client_id or not secret:
        raise InvalidClient("The Basic credentials have no client id or no secret.")
    return unquote_plus(client_id), unquote_plus(secret)
