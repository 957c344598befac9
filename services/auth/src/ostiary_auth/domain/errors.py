"""The domain's errors.

    AuthError
    +-- InvalidEmail
    +-- InvalidName
    +-- UnacceptablePassword
    +-- EmailTaken
    +-- InvalidCredentials
    +-- WrongPassword
    +-- InvalidRefreshToken
    +-- TooManyAttempts
    +-- HashingOverloaded
    +-- NotAUser
    +-- UnknownRole
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
    """Base of this service's errors."""

    code: ClassVar[str]
    detail: str

    def __init__(self, detail: str = "") -> None:
        """Make the error, with a detail of its own if the class's does not do."""
        if detail:
            self.detail = detail
        super().__init__(self.detail)


class InvalidEmail(AuthError):
    """Not an address that mail could reach."""

    code = "invalid_email"
    detail = "This is not a valid e-mail address."


class InvalidName(AuthError):
    """A name that is empty or too long."""

    code = "invalid_name"
    detail = "A name has 1 to 100 characters."


class UnacceptablePassword(AuthError):
    """A password outside the rules."""

    code = "unacceptable_password"
    detail = "This password is not acceptable."


class EmailTaken(AuthError):
    """There is an account of this address."""

    code = "email_taken"
    detail = "There is an account with this e-mail address already; log in instead."


class InvalidCredentials(AuthError):
    """No such account, or a wrong password, or a disabled account: the same to the outside."""

    code = "invalid_credentials"
    detail = "E-mail address or password is wrong."


class WrongPassword(AuthError):
    """Somebody who is logged in gave a wrong current password. Their token is not at fault."""

    code = "wrong_password"
    detail = "The current password is wrong."


class InvalidRefreshToken(AuthError):
    """Unknown, used, expired, or of a session that has ended: the same to the outside."""

    code = "invalid_refresh_token"
    detail = "The refresh token is not valid any more; log in again."


class TooManyAttempts(AuthError):
    """Passwords were tried too often. `retry_after` is in whole seconds."""

    code = "too_many_attempts"

    def __init__(self, wait: timedelta) -> None:
        """Say how long to wait."""
        self.retry_after = max(1, ceil(wait.total_seconds()))
        super().__init__(f"Too many attempts; try again in {self.retry_after} s.")


class HashingOverloaded(AuthError):
    """More passwords wait to be checked than can be in a reasonable time."""

    code = "busy"
    detail = "Too many logins at the moment; try again shortly."


class NotAUser(AuthError):
    """A client's token where a user's is needed."""

    code = "not_a_user"
    detail = "This is for users; the access token is a client's."


class UnknownRole(AuthError):
    """A role that does not exist."""

    code = "unknown_role"
    detail = "There is no such role."


class UserNotFound(AuthError):
    """No such user."""

    code = "user_not_found"
    detail = "There is no such user."


class SessionNotFound(AuthError):
    """No such session, or it is somebody else's, or it has ended: the same to the outside."""

    code = "session_not_found"
    detail = "You have no such session."


class ClientNotFound(AuthError):
    """No such client."""

    code = "client_not_found"
    detail = "There is no such client."


class ClientTaken(AuthError):
    """There is a client with this id."""

    code = "client_taken"
    detail = "There is a client with this id already."


class InvalidClientSettings(AuthError):
    """A client that cannot be."""

    code = "invalid_client_settings"
    detail = "A client cannot have these settings."


class KeyNotFound(AuthError):
    """No such signing key."""

    code = "key_not_found"
    detail = "There is no such key."


class KeyNotReady(AuthError):
    """The next key cannot sign yet: not every verifier need have seen it. `retry_after` is in whole seconds."""

    code = "key_not_ready"

    def __init__(self, wait: timedelta) -> None:
        """Say how long to wait."""
        self.retry_after = max(1, ceil(wait.total_seconds()))
        super().__init__(f"The next key has not been published long enough; it can sign in {self.retry_after} s.")


class TooManyVerifiers(AuthError):
    """More verifiers ask here than one replica serves."""

    code = "too_many_verifiers"
    detail = "Too many verifiers ask this replica; ask another one."


class LogReplaced(AuthError):
    """The stored revocation log is not the one that this replica has followed: a backup was restored, or worse."""

    code = "revocation_log_replaced"
    detail = "The revocation log was replaced; the auth service has to be started again."


class OAuthError(Exception):
    """A refusal at an OAuth endpoint: `error` is a code of RFC 6749 section 5.2, RFC 7009 or RFC 8707."""

    def __init__(self, error: str, description: str) -> None:
        """Refuse; the description is for the developer of the client."""
        super().__init__(description)
        self.error = error
        self.description = description


class InvalidClient(OAuthError):
    """Who asks could not be authenticated as a client (RFC 6749 section 5.2)."""

    def __init__(self, description: str = "The client could not be authenticated.") -> None:
        """Refuse."""
        super().__init__("invalid_client", description)
