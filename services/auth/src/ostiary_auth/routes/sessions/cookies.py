"""Browsers' cookies: the session's two, and the device's. `ostiary.browser` has the rules."""

from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from ostiary.browser import (
    CROSS_SITE_REQUEST,
    REPEATED_COOKIE,
    CookieNames,
    RepeatedCookie,
    SessionCookies,
    Verdict,
    judge,
    judged_fields,
    read_cookies,
    set_cookie,
)
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.errors import SessionEnded
from ostiary_auth.domain.oauth.access_tokens import AccessToken
from ostiary_auth.domain.sessions.model import BrowserGrant
from ostiary_auth.domain.sessions.session_secrets import SessionProof, parse
from ostiary_chassis.origins import OriginMatcher
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.urls import DEFAULT_PORTS

#: Lifetime in seconds of the cookie with the device token.
DEVICE_COOKIE_AGE = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class BrowserCookies:
    """Reads and sets the cookies of one issuer."""

    names: CookieNames
    #: The scheme of the site's own pages.
    scheme: str
    issuer_origin: bytes
    trusted: OriginMatcher
    proxies: TrustedProxies

    @classmethod
    def of(cls, config: AuthConfig) -> "BrowserCookies | None":
        """Return those of the configuration's issuer; None if its URL is not safe for cookies."""
        names = config.cookie_names
        if names is None:
            return None
        scheme = config.issuer.partition(":")[0]
        issuer = _origin(scheme, config.issuer.partition("://")[2])
        return cls(names, scheme, issuer, OriginMatcher(config.trusted_origins), TrustedProxies(config.trusted_proxies))

    def check_own_site(self, request: Request) -> None:
        """Refuse a request that a page of another site has made, with or without cookies. Raises ProblemError."""
        fields = judged_fields(request.headers.raw)
        own_origin = self._own_origin(request)
        if b"sec-fetch-site" not in fields and fields.get(b"origin", b"").lower() == self.issuer_origin:
            # An old browser. A proxy may call the gateway by an internal name, which stands for the issuer's; to other
            # hosts of this gateway, newer browsers tell that such a page is only of the same site.
            own_origin = self.issuer_origin
        verdict = judge(request.method, fields, own_origin, self._trusts)
        if verdict is not Verdict.COUNTS:
            raise ProblemError(CROSS_SITE_REQUEST)

    def proof(self, request: Request) -> SessionProof | None:
        """Return what the session's cookie proves. Raises ProblemError."""
        try:
            return parse(self._read(request).session.decode("ascii"))
        except SessionEnded:
            return None

    def device(self, request: Request) -> str | None:
        """Return the device's token. Raises ProblemError."""
        return self._read(request).device.decode("latin-1") or None

    def set_device(self, response: Response, token: str | None) -> None:
        if token is not None:
            self._set(response, self.names.device, token, DEVICE_COOKIE_AGE)

    def set_session(self, response: Response, grant: BrowserGrant, access: AccessToken, now: datetime) -> None:
        """Set the session's cookies: until they expire, or until the browser is closed."""
        session = grant.session
        age = int((session.expires_at - now).total_seconds())
        self._set(response, self.names.session, grant.credential, age if session.persistent else None)
        self._set(response, self.names.token, access.token, access.expires_in if session.persistent else None)

    def expire_session(self, response: Response) -> None:
        """Delete the session's cookies, and what the browser has cached."""
        self._set(response, self.names.session, "", 0)
        self._set(response, self.names.token, "", 0)
        response.headers["Clear-Site-Data"] = '"cache"'

    def _read(self, request: Request) -> SessionCookies:
        try:
            return read_cookies((value for name, value in request.headers.raw if name == b"cookie"), self.names)
        except RepeatedCookie:
            raise ProblemError(REPEATED_COOKIE) from None

    def _set(self, response: Response, name: bytes, value: str, max_age: int | None) -> None:
        field = set_cookie(name, value.encode("ascii"), max_age, is_secure=self.names.is_secure)
        response.headers.append("Set-Cookie", field.decode("ascii"))

    def _own_origin(self, request: Request) -> bytes:
        host = request.headers.get("host", "")
        forwarded = request.headers.get("x-forwarded-host", "").rpartition(",")[2].strip()
        if forwarded and request.client is not None and self.proxies.trusts(request.client.host):
            host = forwarded
        return _origin(self.scheme, host)

    def _trusts(self, origin: bytes) -> bool:
        return self.trusted.matches(origin.decode("latin-1"))


def _origin(scheme: str, host: str) -> bytes:
    """Return the origin of a host's pages as browsers send it, without the default port (RFC 6454 section 6.2)."""
    return f"{scheme}://{host.lower().removesuffix(f':{DEFAULT_PORTS[scheme]}')}".encode("latin-1")
