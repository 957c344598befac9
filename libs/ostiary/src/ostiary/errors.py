"""The errors of this package.

    OstiaryError
    +-- TokenError            the token is invalid: 401
    |   +-- MissingToken          no token was sent
    |   +-- Malformed             not the canonical form of a signed JWT
    |   +-- TooLarge              over the size limit, rejected before any parsing
    |   +-- UnsupportedAlg        `alg` is not on the allow-list
    |   +-- WrongType             `typ` is not that of an access token
    |   +-- UnknownKey            the issuer has no key with this `kid`
    |   +-- BadSignature          the signature does not match
    |   +-- MissingClaim          a required claim is missing
    |   +-- WrongIssuer           `iss` is another issuer
    |   +-- WrongAudience         `aud` does not name this service
    |   +-- Expired               `exp` has passed
    |   +-- NotYetValid           `nbf` or `iat` lies in the future
    |   +-- Revoked               the token, its session, its client, its subject or its key was revoked
    +-- AccessError           the token is valid but does not permit this: 403
    |   +-- InsufficientScope
    |   +-- InsufficientRole
    +-- CookieError           the cookies of a browser's session cannot be used for this request
    |   +-- RepeatedCookie        one of them was sent twice: 400
    |   +-- CrossSiteRequest      a page of another site made the request: 403
    +-- UndecidableError      this service cannot decide at the moment: 503
        +-- KeysUnavailable       no usable key set in memory
        +-- RevocationStale       the revocations in memory are older than the route allows

`code` is stable: clients and dashboards may rely on it. `detail` is for the client's developer: it
says what to do, and contains nothing from the token.
"""

from typing import ClassVar


class OstiaryError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str]
    detail: ClassVar[str]

    def __init__(self, reason: str = "") -> None:
        """`reason` is for logs and must contain nothing from the token."""
        super().__init__(reason or self.detail)


class TokenError(OstiaryError):
    """The token is invalid; a new one may help (RFC 6750 section 3.1, `invalid_token`)."""


class MissingToken(TokenError):
    """No bearer token was sent (RFC 6750 section 3: a challenge without an error code)."""

    code = "missing_token"
    detail = "Send an access token in the Authorization header, as 'Bearer <token>'."


class Malformed(TokenError):
    """Not the canonical compact form of a signed JWT (RFC 7515 section 7.1)."""

    code = "malformed"
    detail = "The access token is malformed; log in again."


class TooLarge(TokenError):
    """The token is over the size limit."""

    code = "too_large"
    detail = "The access token exceeds the size limit."


class UnsupportedAlg(TokenError):
    """`alg` is not on the allow-list (RFC 8725 section 3.1)."""

    code = "unsupported_alg"
    detail = "The access token's signature algorithm is not accepted; use RS256."


class WrongType(TokenError):
    """`typ` is not that of an access token (RFC 9068 section 4, RFC 8725 section 3.11)."""

    code = "wrong_type"
    detail = "The token is not an access token; send an access token."


class UnknownKey(TokenError):
    """The issuer has no key with this `kid`."""

    code = "unknown_key"
    detail = "The access token's signing key is unknown; refresh the token."


class BadSignature(TokenError):
    """The signature does not match token and key (RFC 7515 section 5.2)."""

    code = "bad_signature"
    detail = "The access token's signature is invalid; log in again."


class MissingClaim(TokenError):
    """A required claim is missing (RFC 9068 section 2.2)."""

    code = "missing_claim"
    detail = "The access token lacks a required claim."


class WrongIssuer(TokenError):
    """`iss` is not exactly the expected issuer (RFC 9068 section 4)."""

    code = "wrong_issuer"
    detail = "The access token is from another issuer."


class WrongAudience(TokenError):
    """`aud` does not name this service (RFC 9068 section 4)."""

    code = "wrong_audience"
    detail = "The access token is for another audience."


class Expired(TokenError):
    """`exp` has passed (RFC 7519 section 4.1.4)."""

    code = "expired"
    detail = "The access token has expired; refresh it."


class NotYetValid(TokenError):
    """`nbf` or `iat` lies in the future (RFC 7519 sections 4.1.5 and 4.1.6)."""

    code = "not_yet_valid"
    detail = "The access token is not valid yet; check the clocks."


class Revoked(TokenError):
    """The token, its session, its client, its subject or its key was revoked."""

    code = "revoked"
    detail = "The access token was revoked; log in again."


class AccessError(OstiaryError):
    """The token is valid but does not permit this (RFC 6750 section 3.1, `insufficient_scope`)."""


class InsufficientScope(AccessError):
    """A scope is missing."""

    code = "insufficient_scope"
    detail = "The access token lacks a required scope."

    def __init__(self, required: frozenset[str]) -> None:
        super().__init__()
        #: All scopes that the resource needs.
        self.required = required


class InsufficientRole(AccessError):
    """A role is missing."""

    code = "insufficient_role"
    detail = "The caller lacks a required role."


class CookieError(OstiaryError):
    """The cookies of a browser's session cannot be used for this request."""


class RepeatedCookie(CookieError):
    """A cookie of ours came twice: one of them may have been set by somebody else (RFC 6265 section 8.6)."""

    code = "repeated_cookie"
    detail = "A cookie of the session was sent twice. Delete this site's cookies and log in again."


class CrossSiteRequest(CookieError):
    """A page of another site made the request, and the browser sent the cookies along (RFC 6265bis section 8.2)."""

    code = "cross_site_request"
    detail = (
        "The session's cookies do not count for requests that pages of other sites make."
        " To let pages of another origin make them, add it to the trusted origins."
    )


class UndecidableError(OstiaryError):
    """This service cannot decide at the moment. The token may be valid, so the client keeps it."""

    #: Seconds after which a client should retry (Retry-After, RFC 9110 section 10.2.3).
    retry_after: ClassVar[int] = 1


class KeysUnavailable(UndecidableError):
    """No usable key set in memory: none was fetched yet, or the last one is too old."""

    code = "keys_unavailable"
    detail = "Access tokens cannot be verified at the moment; retry shortly with the same token."


class RevocationStale(UndecidableError):
    """The revocations in memory are older than the caller allows."""

    code = "revocation_stale"
    detail = "Revocations cannot be checked at the moment; retry shortly with the same token."
