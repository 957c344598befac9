"""The domain's errors.

    AuthError
    +-- InvalidEmail
    +-- InvalidName
    +-- UnacceptablePassword
    +-- EmailTaken
    +-- InvalidCredentials
    +-- WrongPassword
    +-- InvalidRefreshToken
    +-- SessionEnded
    +-- TooManyAttempts
    +-- TooManyExchanges
    +-- HashingOverloaded
    +-- NotAUser
    +-- UnknownRole
    +-- TokenTooLarge
    +-- UserNotFound
    +-- SessionNotFound
    +-- ClientNotFound
    +-- ClientTaken
    +-- InvalidClientSettings
    +-- KeyNotFound
    +-- KeyNotReady
    +-- TooManyVerifiers
    +-- LogReplaced
    OAuthError
    +-- InvalidClient

`code` is stable; `detail` is for the user or developer who made the request.
"""

from datetime import timedelta
from math import ceil
from typing import ClassVar


class AuthError(Exception):
    """Base of the errors that become problem documents."""

    code: ClassVar[str]
    detail: str

    def __init__(self, detail: str = "") -> None:
        if detail:
            self.detail = detail
        super().__init__(self.detail)


class InvalidEmail(AuthError):
    """Not a syntactically valid address."""

    code = "invalid_email"
    detail = "Invalid e-mail address."


class InvalidName(AuthError):
    """A display name that is too long, shows nothing, or changes how the text around it is shown."""

    code = "invalid_name"
    detail = (
        "The display name must have 1 to 100 characters, at least one of them visible, "
        "and no control characters, also not for the direction of text."
    )


class UnacceptablePassword(AuthError):
    """A password that does not meet the policy."""

    code = "unacceptable_password"
    detail = "The password does not meet the password policy."


class EmailTaken(AuthError):
    """Another account has this address."""

    code = "email_taken"
    detail = "An account with this e-mail address already exists; log in instead."


class InvalidCredentials(AuthError):
    """Unknown account, wrong password or disabled account: indistinguishable for the caller."""

    code = "invalid_credentials"
    detail = "Wrong e-mail address or password."


class WrongPassword(AuthError):
    """A logged-in user gave a wrong current password. Their access token is valid."""

    code = "wrong_password"
    detail = "The current password is wrong."


class InvalidRefreshToken(AuthError):
    """Unknown, used or expired, or its session has ended: indistinguishable for the caller."""

    code = "invalid_refresh_token"
    detail = "Invalid or expired refresh token; log in again."


class SessionEnded(AuthError):
    """A browser's session that is unknown or over, or a wrong secret: indistinguishable for the caller."""

    code = "session_ended"
    detail = "The session has ended. Log in again."


class TooManyAttempts(AuthError):
    """A password was tried, or an account registered, too often. `retry_after` is in whole seconds."""

    code = "too_many_attempts"

    def __init__(self, wait: timedelta) -> None:
        self.retry_after = max(1, ceil(wait.total_seconds()))
        super().__init__(f"Too many attempts; try again in {self.retry_after} s.")


class TooManyExchanges(AuthError):
    """A session was exchanged for access tokens too often. `retry_after` is in whole seconds."""

    code = "too_many_requests"

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, ceil(seconds))
        super().__init__(f"This session was exchanged for access tokens too often; retry in {self.retry_after} s.")


class HashingOverloaded(AuthError):
    """The queue of password hashes is full, or a wait in it took too long."""

    code = "busy"
    detail = "Too many concurrent logins and registrations; retry shortly."


class NotAUser(AuthError):
    """A client's access token where a user's is required."""

    code = "not_a_user"
    detail = "This endpoint requires a user's access token, not a client's."


class UnknownRole(AuthError):
    """A role that is not defined."""

    code = "unknown_role"
    detail = "Unknown role."


class TokenTooLarge(AuthError):
    """Roles with which access tokens would not fit into a cookie."""

    code = "token_too_large"

    def __init__(self, characters: int, most: int) -> None:
        self.fault = f"access tokens would have {characters} characters, and browsers keep cookies with {most}"
        super().__init__(f"With these roles, {self.fault}. Use fewer roles, or roles with fewer scopes.")


class UserNotFound(AuthError):
    """No user has this id or address."""

    code = "user_not_found"
    detail = "User not found."


class SessionNotFound(AuthError):
    """Unknown, another user's, or ended: indistinguishable for the caller."""

    code = "session_not_found"
    detail = "Session not found."


class ClientNotFound(AuthError):
    """No client has this id."""

    code = "client_not_found"
    detail = "Client not found."


class ClientTaken(AuthError):
    """Another client has this id."""

    code = "client_taken"
    detail = "A client with this id already exists."


class InvalidClientSettings(AuthError):
    """Settings that a client may not be registered with."""

    code = "invalid_client_settings"
    detail = "Invalid client settings."


class KeyNotFound(AuthError):
    """No signing key has this key id."""

    code = "key_not_found"
    detail = "Signing key not found."


class KeyNotReady(AuthError):
    """The next key may not sign yet, as some verifiers may not hold it. `retry_after` is in whole seconds."""

    code = "key_not_ready"

    def __init__(self, wait: timedelta) -> None:
        self.retry_after = max(1, ceil(wait.total_seconds()))
        super().__init__(f"The next key has not been published long enough; it can sign in {self.retry_after} s.")


class TooManyVerifiers(AuthError):
    """More verifiers poll this replica than it serves."""

    code = "too_many_verifiers"
    detail = "This replica already serves its maximum number of verifiers; retry with another one."


class LogReplaced(AuthError):
    """The stored revocation log lacks entries that it once had. Usually, a backup was restored."""

    code = "revocation_log_replaced"
    detail = "The revocation log lacks entries; a new one begins shortly."


class OAuthError(Exception):
    """An error of an OAuth endpoint. `error` is a code of RFC 6749 section 5.2, RFC 7009 or RFC 8707.

    `description` is for the developer of the client.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


class InvalidClient(OAuthError):
    """Client authentication failed (RFC 6749 section 5.2)."""

    def __init__(self, description: str = "Client authentication failed.") -> None:
        super().__init__("invalid_client", description)
