"""What can go wrong when a request is to be authorised.

    OstiaryError
    +-- TokenError            the token is at fault: 401
    |   +-- MissingToken          no token was sent
    |   +-- Malformed             not the one canonical form of a signed JWT
    |   +-- TooLarge              over the size limit, refused before any parsing
    |   +-- UnsupportedAlg        `alg` is not on the allow-list
    |   +-- WrongType             `typ` is not that of an access token
    |   +-- UnknownKey            no key of the issuer has this `kid`
    |   +-- BadSignature          the signature does not fit
    |   +-- MissingClaim          a required claim is absent
    |   +-- WrongIssuer           `iss` is another issuer
    |   +-- WrongAudience         `aud` does not name this service
    |   +-- Expired               `exp` has passed
    |   +-- NotYetValid           `nbf` or `iat` lies in the future
    |   +-- Revoked               the token, its session or its subject was revoked
    +-- AccessError           the token is good and does not allow this: 403
    |   +-- InsufficientScope
    |   +-- InsufficientRole
    +-- UndecidableError      this service cannot decide now: 503
        +-- KeysUnavailable       no usable key set is held
        +-- RevocationStale       the revocation state is older than the route allows

`code` is stable: clients and dashboards may rely on it. `detail` is for a person who
holds the token: it says what to do and never repeats what the token contains.
"""

from typing import ClassVar


class OstiaryError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str]
    detail: ClassVar[str]

    def __init__(self, reason: str = "") -> None:
        """Make the error; `reason` is for logs and must hold no value taken from a token."""
        super().__init__(reason or self.detail)


class TokenError(OstiaryError):
    """The token is at fault; a new one may help (RFC 6750 section 3.1, `invalid_token`)."""


class MissingToken(TokenError):
    """No bearer token was sent (RFC 6750 section 3: a challenge without an error code)."""

    code = "missing_token"
    detail = "Send an access token in the Authorization header, as 'Bearer <token>'."


class Malformed(TokenError):
    """Not the one canonical compact form of a signed JWT (RFC 7515 section 7.1)."""

    code = "malformed"
    detail = "The access token is malformed; log in again."


class TooLarge(TokenError):
    """The token is over the size limit."""

    code = "too_large"
    detail = "The access token is too large."


class UnsupportedAlg(TokenError):
    """`alg` is not on the allow-list (RFC 8725 section 3.1)."""

    code = "unsupported_alg"
    detail = "The access token is signed with an algorithm that is not accepted here."


class WrongType(TokenError):
    """`typ` is not that of an access token (RFC 9068 section 4, RFC 8725 section 3.11)."""

    code = "wrong_type"
    detail = "This token is not an access token."


class UnknownKey(TokenError):
    """No key of the issuer has this `kid`."""

    code = "unknown_key"
    detail = "The access token is signed with a key that is not known here; refresh it."


class BadSignature(TokenError):
    """The signature does not fit token and key (RFC 7515 section 5.2)."""

    code = "bad_signature"
    detail = "The access token's signature is not valid; log in again."


class MissingClaim(TokenError):
    """A required claim is absent (RFC 9068 section 2.2)."""

    code = "missing_claim"
    detail = "The access token lacks a required claim."


class WrongIssuer(TokenError):
    """`iss` is not exactly the expected issuer (RFC 9068 section 4)."""

    code = "wrong_issuer"
    detail = "The access token was issued by somebody else."


class WrongAudience(TokenError):
    """`aud` does not name this service (RFC 9068 section 4)."""

    code = "wrong_audience"
    detail = "The access token is not meant for this service."


class Expired(TokenError):
    """`exp` has passed (RFC 7519 section 4.1.4)."""

    code = "expired"
    detail = "The access token has expired; refresh it."


class NotYetValid(TokenError):
    """`nbf` or `iat` lies in the future (RFC 7519 sections 4.1.5 and 4.1.6)."""

    code = "not_yet_valid"
    detail = "The access token is not valid yet; check the clocks."


class Revoked(TokenError):
    """The token, its session, its client or its subject was revoked."""

    code = "revoked"
    detail = "The access token was revoked; log in again."


class AccessError(OstiaryError):
    """The token is good and does not allow this (RFC 6750 section 3.1, `insufficient_scope`)."""


class InsufficientScope(AccessError):
    """A scope is missing."""

    code = "insufficient_scope"
    detail = "The access token does not carry the scope that this needs."

    def __init__(self, required: frozenset[str]) -> None:
        """Make the error; `required` are all scopes that the resource needs."""
        super().__init__()
        self.required = required


class InsufficientRole(AccessError):
    """A role is missing."""

    code = "insufficient_role"
    detail = "The caller does not have the role that this needs."


class UndecidableError(OstiaryError):
    """This service cannot decide now; the token may well be good, so the client keeps it."""

    #: Seconds after which a client should ask again (Retry-After, RFC 9110 section 10.2.3).
    retry_after: ClassVar[int] = 1


class KeysUnavailable(UndecidableError):
    """No usable key set is held: none was fetched yet, or the last is past its hard cap."""

    code = "keys_unavailable"
    detail = "Tokens cannot be verified at the moment; try again shortly with the same token."


class RevocationStale(UndecidableError):
    """The revocation state is older than what asks for it allows."""

    code = "revocation_stale"
    detail = "Revocations cannot be checked at the moment; try again shortly with the same token."
