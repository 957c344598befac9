"""The credentials in a request's head: a bearer token, or the cookies of a browser session.

What is found out from a head alone is kept with it, as heads repeat on a connection. A bearer token goes first: then
cookies are not looked at.
"""

from collections.abc import Collection

from ostiary import Presented, Verifier
from ostiary.browser import (
    REPEATED_COOKIE,
    CookieNames,
    RepeatedCookie,
    SessionCookies,
    Verdict,
    judge,
    judged_fields,
    read_cookies,
    resembles_ours,
)
from ostiary.http import is_bearer
from ostiary_chassis.problems import ProblemError
from ostiary_gateway.access.renewal import Session
from ostiary_gateway.access.rules import RouteRules
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.browser import BrowserSessions


class Browser:
    """The browser sessions of a routes file, prepared for the request path."""

    def __init__(self, names: CookieNames, config: BrowserSessions) -> None:
        self.names = names
        #: The upstream that is the auth service.
        self.upstream = config.upstream
        self.login_path = config.login_path
        self._trusted = config.trusted
        self.passed_to_issuer = frozenset({names.device, names.flow})

    def trusts(self, origin: bytes) -> bool:
        """Return whether pages of an origin, in lower case, may use sessions."""
        return self._trusted.matches(origin.decode("latin-1"))


class Forwarding:
    """The fields of a request in which credentials go on in another form than they came."""

    __slots__ = ("fields", "is_to_issuer", "session", "token")

    def __init__(self, fields: Fields, *, is_to_issuer: bool, session: bytes, token: bytes) -> None:
        self.fields = fields
        #: What they have been made of.
        self.is_to_issuer = is_to_issuer
        self.session = session
        self.token = token


class Credentials:
    """The credentials in a request's head."""

    __slots__ = (
        "_cookies",
        "_forwarding",
        "_judged_by",
        "_request",
        "_verdict",
        "authorization",
        "cookie_fields",
        "has_bearer",
        "presented",
        "session",
        "token",
        "token_value",
    )

    def __init__(self, request: Request) -> None:
        self._request = request
        fields = request.fields
        self.authorization: list[bytes] = (
            [value for name, value in fields if name == b"authorization"] if b"authorization" in request.by_name else []
        )
        self.has_bearer: bool = False
        for value in self.authorization:
            if is_bearer(value):
                self.has_bearer = True
        self.cookie_fields: list[bytes] = (
            [value for name, value in fields if name == b"cookie"] if b"cookie" in request.by_name else []
        )
        #: The bearer token.
        self.presented: Presented | None = None
        self._cookies: SessionCookies | None = None
        #: The session's cookies; None if there are none, or before `read`.
        self.session: Session | None = None
        self.token: Presented | None = None
        self.token_value = b""
        #: Whether the cookies count, and by whose rules.
        self._judged_by: RouteRules | None = None
        self._verdict: Verdict = Verdict.ABSENT
        self._forwarding: Forwarding | None = None

    def read(self, names: CookieNames, verifier: Verifier) -> Session | None:
        """Read the session's cookies, once, and return the session if there is one. Raises ProblemError."""
        if self._cookies is None and self.cookie_fields:
            try:
                cookies = self._cookies = read_cookies(self.cookie_fields, names)
            except RepeatedCookie:
                raise ProblemError(REPEATED_COOKIE) from None
            if cookies.session:
                self.session = Session(cookies.session, cookies.session_id)
                if cookies.token:
                    self.token, self.token_value = verifier.present(cookies.token.decode("ascii")), cookies.token
        return self.session

    def verdict(self, rules: RouteRules, own_origin: bytes, browser: Browser, *, is_websocket: bool) -> Verdict:
        """Return whether the session's cookies count for the request by the rules of a route."""
        if self._judged_by is not rules:
            self._verdict = judge(
                self._request.method,
                judged_fields(self._request.fields),
                own_origin,
                browser.trusts,
                is_websocket=is_websocket,
                embeds_same_site=rules.embeds_same_site,
            )
            self._judged_by = rules
        return self._verdict

    def has_others(self) -> bool:
        """Return whether there are cookies that are none of the session's."""
        return any([bool(without_ours(field)) for field in self.cookie_fields])  # noqa: C419 - compiled code

    def forwarding(self, browser: Browser, *, is_to_issuer: bool, session: bytes, token: bytes) -> Forwarding:
        """Return the request's fields for a service: without our cookies, but for those that the auth service gets.

        With `token`, that of the session, in the place of what the client has in `Authorization`.
        """
        last = self._forwarding
        if last is None or last.is_to_issuer is not is_to_issuer or last.session != session or last.token is not token:
            fields = self._fields_for_service(browser, session, token, is_to_issuer=is_to_issuer)
            last = self._forwarding = Forwarding(fields, is_to_issuer=is_to_issuer, session=session, token=token)
        return last

    def _fields_for_service(self, browser: Browser, session: bytes, token: bytes, *, is_to_issuer: bool) -> Fields:
        cookies = self._cookies_for_service(browser, is_to_issuer=is_to_issuer)
        if session:
            cookies.append(b"%b=%b" % (browser.names.session, session))
        fields = [
            field
            for field in self._request.fields
            if field[0] != b"cookie" and not (token and field[0] == b"authorization")
        ]
        if cookies:
            fields.append((b"cookie", b"; ".join(cookies)))
        if token:
            fields.append((b"authorization", b"Bearer " + token))
        return fields

    def _cookies_for_service(self, browser: Browser, *, is_to_issuer: bool) -> list[bytes]:
        """Return the cookies for a service, as `Cookie` has them."""
        read, names = self._cookies, browser.names
        if read is None:
            # Nobody has looked at them.
            kept = browser.passed_to_issuer if is_to_issuer else frozenset()
            return [left for field in self.cookie_fields if (left := without_ours(field, kept))]
        cookies = [read.others] if read.others else []
        if is_to_issuer and read.device:
            cookies.append(b"%b=%b" % (names.device, read.device))
        if is_to_issuer and read.flow:
            cookies.append(b"%b=%b" % (names.flow, read.flow))
        return cookies


def without_ours(field: bytes, kept: Collection[bytes] = ()) -> bytes:
    """Return a `Cookie` field without what a service could take for one of our cookies, but for the names in `kept`."""
    parts = [
        part
        for part in field.split(b";")
        if not resembles_ours(part) or (b"=" in part and part.strip(b" \t").partition(b"=")[0] in kept)
    ]
    return b";".join(parts).strip(b" \t;")
