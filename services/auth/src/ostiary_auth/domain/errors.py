"""What the auth service refuses.

    AuthError
    +-- InvalidEmail
    +-- UnacceptablePassword
    +-- EmailTaken
    +-- InvalidCredentials
    +-- InvalidRefreshToken
    +-- HashingOverloaded

`code` is stable, `detail` is for the person at the other end.
"""

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


class InvalidRefreshToken(AuthError):
    """Unknown, used, expired, or of a session that has ended: the same to the outside."""

    code = "invalid_refresh_token"
    detail = "The refresh token is not valid any more; log in again."


class HashingOverloaded(AuthError):
    """More passwords wait to be checked than can be in a reasonable time."""

    code = "busy"
    detail = "Too many logins at the moment; try again shortly."
