"""What the auth service answers when it is asked for a session's access token.

Only what is exactly as agreed is believed. Anything else says nothing about the session: nobody is logged out because
of it.
"""

import json
import re
from typing import Final

from ostiary.browser import MAX_COOKIE_BYTES, SESSION_ENDED

#: Bytes of an answer: a token, which has to fit a cookie, and little more.
MAX_ANSWER_BYTES: Final = 64 * 1024

#: Seconds of a token's life at most.
MAX_TOKEN_SECONDS: Final = 3600

#: Seconds that the auth service may ask to wait at most.
MAX_RETRY_SECONDS: Final = 60

_OK, _UNAUTHORIZED, _FORBIDDEN, _GONE, _TOO_MANY, _UNAVAILABLE = 200, 401, 403, 410, 429, 503

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_SECONDS = re.compile(rb"[0-9]{1,6}\Z")


class Answer:
    """An answer: a token, that the session has ended, or why neither is known."""

    __slots__ = (
        "expires_in",
        "fault",
        "is_ended",
        "is_persistent",
        "is_refused",
        "is_throttled",
        "retry_after",
        "token",
    )

    def __init__(
        self,
        *,
        token: str = "",
        expires_in: float = 0.0,
        is_persistent: bool = False,
        is_ended: bool = False,
        fault: str = "",
    ) -> None:
        #: The access token, and seconds until it ends.
        self.token = token
        self.expires_in = expires_in
        #: Whether the browser keeps the session's cookies when it ends.
        self.is_persistent = is_persistent
        self.is_ended = is_ended
        #: For the log; nothing of what was sent is in it.
        self.fault = fault
        #: Whether the auth service does not accept this gateway's own credential.
        self.is_refused = False
        #: Whether this session is renewed too often.
        self.is_throttled = False
        #: Seconds after which to ask again; 0 if it has not said.
        self.retry_after = 0


def read_answer(status: int, retry_after: bytes, content: bytes, session_id: str) -> Answer:
    """Read the answer to an exchange of this session."""
    if status == _OK:
        return _token(content, session_id)
    if status == _GONE and _object(content).get("code") == SESSION_ENDED.code:
        return Answer(is_ended=True)
    answer = Answer(fault=f"status {status}")
    answer.is_refused = status in {_UNAUTHORIZED, _FORBIDDEN}
    answer.is_throttled = status == _TOO_MANY
    if status in {_TOO_MANY, _UNAVAILABLE} and _SECONDS.match(retry_after) is not None:
        answer.retry_after = min(int(retry_after), MAX_RETRY_SECONDS)
    return answer


def _token(content: bytes, session_id: str) -> Answer:
    members = _object(content)
    token, seconds, is_persistent = (members.get(name) for name in ("access_token", "expires_in", "persistent"))
    if not isinstance(token, str) or len(token) > MAX_COOKIE_BYTES or _TOKEN.match(token) is None:
        return Answer(fault="no access token that fits a cookie")
    if members.get("session_id") != session_id:
        return Answer(fault="answer about another session")
    if type(seconds) is not int or not 0 < seconds <= MAX_TOKEN_SECONDS:
        return Answer(fault="not said when the access token ends")
    if not isinstance(is_persistent, bool):
        return Answer(fault="not said whether the session is persistent")
    return Answer(token=token, expires_in=seconds, is_persistent=is_persistent)


def _object(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
