"""The section `browser` of the routes file: browser sessions.

browser: {upstream: auth, trusted_origins: ["https://app.example.com"], login_path: /login}
"""

from functools import cached_property
from typing import Annotated, Final

from pydantic import AfterValidator

from ostiary.browser import is_return_path
from ostiary_chassis.origins import OriginMatcher, check_trusted
from ostiary_gateway.routing.paths import InvalidPath, canonicalise
from ostiary_gateway.routing.types import Name, Origin, PlainPath, Section

#: Where gateways exchange sessions for access tokens, at the auth service.
EXCHANGE_PATH: Final = "/sessions/exchange"


def _check_login_path(path: str) -> str:
    try:
        is_plain = canonicalise(path.encode()).raw == path.encode()
    except InvalidPath:
        is_plain = False
    if not is_plain or not is_return_path(path) or not {"?", "#"}.isdisjoint(path):
        raise ValueError("must be a path of this site without a query, such as /login")
    return path


class BrowserSessions(Section):
    """Browser sessions, which the auth service opens and ends."""

    upstream: Name
    """Name of the upstream that is the auth service: it alone gets and sets the session's cookies."""

    trusted_origins: frozenset[Annotated[Origin, AfterValidator(check_trusted)]] = frozenset()
    """Origins of other pages that may use the session, such as https://app.example.com or https://*.example.com. They
    must be on the same site: to others, browsers send no cookies."""

    login_path: Annotated[PlainPath, AfterValidator(_check_login_path)] | None = None
    """Path of the login page, for routes with `login: redirect`."""

    @cached_property
    def trusted(self) -> OriginMatcher:
        return OriginMatcher(self.trusted_origins)
