"""What a request authenticates with: an access token, or the cookies of a browser's session."""

from collections.abc import Iterable, Sequence

from ostiary._token import VerifiedToken
from ostiary.browser import BrowserCookies, Verdict, judge, judged_fields, read_cookies
from ostiary.errors import CrossSiteRequest, MissingToken
from ostiary.http import bearer_token, is_bearer

RawFields = Sequence[tuple[bytes, bytes]]


class Credential:
    """A token to verify, and the session of the cookies that it came in."""

    __slots__ = ("session_id", "token")

    def __init__(self, token: str, session_id: str | None) -> None:
        self.token = token
        self.session_id = session_id

    @property
    def is_cookie(self) -> bool:
        return self.session_id is not None

    def check_session(self, token: VerifiedToken) -> None:
        """Check that the verified token is of the session that it came with. Raises MissingToken: it is as absent."""
        if self.session_id is not None and token.session_id != self.session_id:
            raise MissingToken("the token cookie is of another session")


def credential_of(
    method: str, fields: RawFields, cookies: BrowserCookies | None, *, is_websocket: bool = False
) -> Credential:
    """Return the credential of a request with these fields, by lower-case name.

    With a bearer token, cookies are not looked at. Raises MissingToken, Malformed, RepeatedCookie or CrossSiteRequest.
    """
    authorization = _values(fields, b"authorization")
    if cookies is None or any(is_bearer(value) for value in authorization):
        return Credential(bearer_token([value.decode("latin-1") for value in authorization]), None)
    found = read_cookies(_values(fields, b"cookie"), cookies.names)
    if not found.session:
        raise MissingToken
    verdict = judge(method, judged_fields(fields), cookies.origin, cookies.trusts, is_websocket=is_websocket)
    if verdict is Verdict.REFUSED:
        raise CrossSiteRequest
    if verdict is Verdict.ABSENT or not found.token:
        raise MissingToken
    return Credential(found.token.decode(), found.session_id)


def keep_private(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the fields of a response to a cookie, for which caches need to be told that it is one person's.

    They know that of requests with `Authorization` (RFC 9111 section 3.5). What the service says of caches counts.
    """
    kept = list(fields)
    directives = _names_in(kept, b"cache-control")
    if not directives & {b"private", b"no-store", b"public", b"s-maxage"}:
        kept.append((b"cache-control", b"private"))
    if not _names_in(kept, b"vary") & {b"*", b"cookie"}:
        kept.append((b"vary", b"Cookie"))
    return kept


def _values(fields: RawFields, wanted: bytes) -> list[bytes]:
    return [value for name, value in fields if name == wanted]


def _names_in(fields: Iterable[tuple[bytes, bytes]], wanted: bytes) -> set[bytes]:
    """Return the members of a list-valued field, without what follows `=`."""
    values = [value for name, value in fields if name.lower() == wanted]
    return {member.partition(b"=")[0].strip().lower() for value in values for member in value.split(b",")}
