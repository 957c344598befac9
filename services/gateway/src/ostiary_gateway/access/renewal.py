"""What admission and the renewal of access tokens tell each other about browser sessions."""

import hashlib
from typing import Final, Protocol

from ostiary import Presented
from ostiary.http import Problem

#: Seconds before a token's end in which it is renewed while requests go on: this share of its life, and so many at
#: most.
RENEWAL_SHARE: Final = 0.1
MAX_RENEWAL_SECONDS: Final = 60.0

#: Streams begin with a token of which this share is left at least: they end with it.
STREAM_SHARE: Final = 0.5

#: Seconds after which a client should ask again, if nothing better is known.
RETRY_SECONDS: Final = 1


class Session:
    """A session as its cookie tells, before anybody has checked it."""

    __slots__ = ("_key", "id", "value")

    def __init__(self, value: bytes, session_id: str) -> None:
        """`value` is `SID.SECRET`, `session_id` the first part of it."""
        self.value = value
        self.id = session_id
        self._key = b""

    @property
    def key(self) -> bytes:
        """What stands for the session and its secret in memory: no cookie can be made of it."""
        if not self._key:
            self._key = hashlib.sha256(self.value).digest()
        return self._key


class RenewedToken:
    """An access token that the auth service has issued for a session."""

    __slots__ = ("ends_at", "is_persistent", "presented", "value")

    def __init__(self, presented: Presented, ends_at: float, *, is_persistent: bool) -> None:
        """`ends_at` is when it is of no more use, on the monotonic clock.

        `is_persistent` says whether the browser keeps the session's cookies when it ends.
        """
        self.presented = presented
        self.ends_at = ends_at
        self.value: bytes = presented.token.encode()
        self.is_persistent = is_persistent


class Renewal:
    """How a renewal has ended: with a token, because the session has ended, or without an answer."""

    __slots__ = ("is_ended", "retry_after", "token")

    def __init__(
        self, token: RenewedToken | None = None, *, is_ended: bool = False, retry_after: int = RETRY_SECONDS
    ) -> None:
        self.token = token
        self.is_ended = is_ended
        #: Seconds.
        self.retry_after = retry_after


class RenewalNeeded(Exception):
    """A request has to wait for a token of its session."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session


class Renewals(Protocol):
    """The renewals of this process, and what it knows from the last ones."""

    def token_of(self, session: Session) -> RenewedToken | None:
        """Return the last renewed token of a session, which may not be valid any more."""

    def has_ended(self, session: Session) -> bool:
        """Return whether the auth service has just said that a session has ended."""

    def forget(self, session: Session) -> None:
        """Forget the renewed token of a session: it is not valid."""

    def begin(self, session: Session, caller: str) -> None:
        """Renew the token of a session, unless that is under way. Nobody waits for it."""


def undecided(seconds: int) -> Problem:
    """Return the response to a request whose session cannot be told to live or to have ended."""
    return Problem(
        503,
        "session_undecided",
        "The session cannot be checked at the moment. It has not ended; retry with the same cookies.",
        {"Retry-After": str(seconds)},
    )
