"""Browser sessions: the names of their cookies, how these are read and set, and for which requests they count.

The gateway, the auth service and `ostiary.fastapi` share these rules. A session has two cookies:

    session    SID.SECRET, which only the auth service can turn into an access token
    token      the access token; it counts only beside a session cookie of the same session

Browsers send cookies with requests that other sites make them send (RFC 6265bis section 8.2). So a cookie counts only
for requests that Fetch Metadata (W3C) or `Origin` (Fetch standard) show to come from a page of the site's own.
"""

import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from ostiary.errors import CrossSiteRequest, RepeatedCookie
from ostiary.http import Problem, problem_for

__all__ = [
    "CROSS_SITE_REQUEST",
    "MAX_COOKIE_BYTES",
    "MAX_RETURN_CHARACTERS",
    "REPEATED_COOKIE",
    "SESSION_ENDED",
    "BrowserCookies",
    "CookieNames",
    "RepeatedCookie",
    "SessionCookies",
    "Verdict",
    "cookie_names",
    "is_return_path",
    "judge",
    "judged_fields",
    "read_cookies",
    "resembles_ours",
    "session_parts",
    "set_cookie",
]

#: Bytes of a cookie with its name and attributes that browsers keep for certain (RFC 6265 section 6.1).
MAX_COOKIE_BYTES: Final = 4096

#: Characters of a path to return to; longer ones are no links that people follow.
MAX_RETURN_CHARACTERS: Final = 2048

REPEATED_COOKIE: Final = problem_for(RepeatedCookie())
CROSS_SITE_REQUEST: Final = problem_for(CrossSiteRequest())
SESSION_ENDED: Final = Problem(
    401, "session_ended", "The session has ended. Log in again.", {"WWW-Authenticate": 'Bearer realm="ostiary"'}
)

#: One of our names, of any issuer, where some parser sees the name of a cookie begin and end. Python's `http.cookies`
#: takes spaces for separators, others take commas (RFC 2965 section 3.3.1). Browsers send cookies without a name as
#: their value alone.
_OURS = re.compile(
    r"(?:\A[=\s\x00-\x20\ufeff]*|[,\s\x00-\x20\ufeff])"
    r"(?:__(?:host|secure)-)?ostiary-(?:session|token|device|flow)(?:-[0-9]+)?"
    r"(?:[=,\s\x00-\x20\ufeff]|\Z)"
)
#: What all of our names contain, to tell fast that a cookie is none of ours.
_OURS_CONTAINS: Final = b"ostiary-"

#: An id of a session, and 256 random bits in base64url (RFC 4648 section 5).
_SESSION_VALUE = re.compile(rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.([A-Za-z0-9_-]{43})\Z")

#: The alphabet of base64url; of a token (RFC 7515 section 7.1), two dots are left without it.
_BASE64URL: Final = (string.ascii_letters + string.digits + "-_").encode()

#: The fields that `judge` looks at (W3C Fetch Metadata; Fetch standard).
_JUDGED: Final = frozenset({b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"origin", b"content-type"})

#: Methods by which pages read. OPTIONS is that of preflights, which carry no cookies.
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Media types that forms can send (HTML standard, section 4.10.19.6); without the field, an old browser may have sent
#: a form, too.
_FORM_TYPES: Final = frozenset({b"", b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain"})

#: A path, a query and a fragment of what browsers send unencoded (URL standard, section 1.3), without the backslash,
#: which they take for a slash (section 4.4); `//` begins a host.
_RETURN_PATH = re.compile(r"/(?!/)[!$%&'()*+,./0-9:;=?@A-Z\[\]^_`a-z{|}~#-]*\Z")
#: What no link has in its path: dot segments, and encoded characters that would lead elsewhere once decoded.
_MISLEADING = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)|\A/%2f|%5c|%[01][0-9a-f]|%7f", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CookieNames:
    """The names of the cookies of one issuer. `device` and `flow` are for the auth service only."""

    session: bytes
    token: bytes
    device: bytes
    flow: bytes
    every: frozenset[bytes]
    is_secure: bool


class SessionCookies:
    """What a request's `Cookie` field holds. Values that cannot be ours are as absent; so is a token by itself."""

    __slots__ = ("device", "flow", "others", "session", "session_id", "token")

    def __init__(
        self, *, session: bytes, session_id: str, token: bytes, device: bytes, flow: bytes, others: bytes
    ) -> None:
        #: `SID.SECRET`, and its first part; both empty without a session cookie.
        self.session = session
        self.session_id = session_id
        #: The access token; empty if there is none. Whether it belongs to the session, its verified `sid` tells.
        self.token = token
        #: Values for the auth service, whatever they are.
        self.device = device
        self.flow = flow
        #: The same field for services: without all that they could take for ours. Empty if nothing is left.
        self.others = others


class BrowserCookies:
    """Lets a service that browsers talk to itself take the cookies of sessions: `Auth(verifier, cookies=...)`.

    It cannot renew the token cookie: only responses of the gateway at the same origin do.
    """

    def __init__(self, origin: str, *, issuer: str | None = None, trusted_origins: Iterable[str] = ()) -> None:
        """`origin` is that of the service's pages, `issuer` the URL of the auth service if it has another port.

        Pages of `trusted_origins` may use the session, too. Raises ValueError for what is no origin.
        """
        self.names = cookie_names(issuer or origin)
        self.origin = _origin(origin)
        self.trusts: Callable[[bytes], bool] = frozenset(_origin(each) for each in trusted_origins).__contains__


class Verdict(Enum):
    """Whether a cookie counts for a request."""

    COUNTS = auto()
    #: As if it had not been sent.
    ABSENT = auto()
    REFUSED = auto()


def cookie_names(issuer: str) -> CookieNames:
    """Return the names for an issuer's URL. Raises ValueError for plain http from anywhere but this machine.

    The prefix `__Host-` keeps subdomains and plain http from setting them (RFC 6265bis section 4.1.3.2). Without TLS
    there is no such prefix; as cookies do not know ports, the port is part of the name.
    """
    parts = urlsplit(issuer)
    if parts.scheme == "https":
        return _names("__Host-ostiary-", "", is_secure=True)
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise ValueError("browser sessions need an https issuer; plain http is for localhost only")
    return _names("ostiary-", f"-{parts.port or 80}", is_secure=False)


def read_cookies(fields: Iterable[bytes], names: CookieNames) -> SessionCookies:
    """Read the values of all `Cookie` fields of a request, as bytes. Raises RepeatedCookie.

    Names have to match exactly, and nothing is unquoted: parsers of frameworks do both more liberally, so an attacker
    could choose which of two cookies each of them sees.
    """
    found: dict[bytes, bytes] = {}
    others = []
    for field in fields:
        kept = []
        for part in field.split(b";"):
            name, equals, value = part.strip(b" \t").partition(b"=")
            if equals and name in names.every:
                if name in found:
                    raise RepeatedCookie
                found[name] = value
            elif not resembles_ours(part):
                kept.append(part)
        # What is kept is kept as it came: a value in quotes may contain semicolons.
        if rest := b";".join(kept).strip(b" \t;"):
            others.append(rest)
    session = found.get(names.session, b"")
    parts = session_parts(session)
    token = found.get(names.token, b"")
    return SessionCookies(
        session=session if parts is not None else b"",
        session_id=parts[0] if parts is not None else "",
        token=token
        if parts is not None and len(token) < MAX_COOKIE_BYTES and token.translate(None, _BASE64URL) == b".."
        else b"",
        device=found.get(names.device, b""),
        flow=found.get(names.flow, b""),
        others=b"; ".join(others),
    )


def session_parts(value: bytes) -> tuple[str, str] | None:
    """Return the id and the secret in the value of a session's cookie; None if it cannot be ours."""
    match = _SESSION_VALUE.match(value)
    return (match[1].decode(), match[2].decode()) if match is not None else None


def resembles_ours(cookie: bytes) -> bool:
    """Return whether some parser could see one of our names, of any issuer, in a cookie, with or without its value.

    The cookie is a part of `Cookie` or the beginning of `Set-Cookie`. Some parsers strip more than spaces from a name,
    such as U+00A0, and some compare without regard to case.
    """
    if cookie.isascii():
        return _OURS_CONTAINS in cookie.lower() and _OURS.search(cookie.decode("ascii").lower()) is not None
    # Upper case, too: some compare so, which makes a dotless i an i.
    texts = (cookie.decode("latin-1"), cookie.decode("utf-8", "replace"))
    return any([_OURS.search(text.upper().casefold()) is not None for text in texts])  # noqa: C419 - compiled code


def set_cookie(name: bytes, value: bytes, max_age: int | None, *, is_secure: bool) -> bytes:
    """Return the value of a `Set-Cookie` field. `max_age` is in seconds: 0 deletes, None ends with the browser.

    Lax, so that links from other sites lead into the session; what those sites do otherwise is refused by `judge`.
    """
    age = b"" if max_age is None else b"; Max-Age=%d" % max_age
    return b"%b=%b; Path=/%b; HttpOnly; SameSite=Lax%b" % (name, value, age, b"; Secure" if is_secure else b"")


def judged_fields(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return those of a request's fields, given by lower-case name, that `judge` looks at.

    Values of a repeated field are joined (RFC 9110 section 5.3): browsers repeat none of these, so they match nothing.
    """
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _JUDGED:
            known = found.get(name)
            found[name] = value if known is None else b"%b, %b" % (known, value)
    return found


def judge(
    method: str,
    fields: Mapping[bytes, bytes],
    own_origin: bytes,
    trusts: Callable[[bytes], bool],
    *,
    is_websocket: bool = False,
    embeds_same_site: bool = False,
) -> Verdict:
    """Decide whether a cookie counts for a request with these fields, which `judged_fields` returns.

    `own_origin` is that of the site's pages, in lower case; `trusts` tells of which other origins, in lower case, pages
    may use the session. With `embeds_same_site`, pages of sibling domains may embed what the session may read.
    """
    site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
    is_own = site in {b"same-origin", b"none"}
    if site is None and origin is not None:
        is_own = origin.lower() == own_origin
    if is_own or (origin is not None and trusts(origin.lower())):
        return Verdict.COUNTS
    if site is None and origin is None:
        # No browser of the last years, or no browser at all.
        may_be_form = method == "POST" and not is_websocket and _media_type(fields) in _FORM_TYPES
        return Verdict.REFUSED if may_be_form else Verdict.COUNTS
    if is_websocket or method not in _READING:
        return Verdict.REFUSED
    is_navigation = fields.get(b"sec-fetch-mode") == b"navigate" and fields.get(b"sec-fetch-dest") == b"document"
    if site is not None and (is_navigation or (embeds_same_site and site == b"same-site")):
        return Verdict.COUNTS
    return Verdict.ABSENT


def is_return_path(text: str) -> bool:
    """Return whether a text is a path of the same origin, with or without a query, to which a login may lead back."""
    if len(text) > MAX_RETURN_CHARACTERS or _RETURN_PATH.match(text) is None:
        return False
    path = text.partition("#")[0].partition("?")[0]
    return _MISLEADING.search(path) is None


def _names(prefix: str, suffix: str, *, is_secure: bool) -> CookieNames:
    session, token, device, flow = (
        f"{prefix}{name}{suffix}".encode() for name in ("session", "token", "device", "flow")
    )
    return CookieNames(session, token, device, flow, frozenset({session, token, device, flow}), is_secure)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(text: str) -> bytes:
    """Return an origin as browsers send it, in lower case."""
    parts = urlsplit(text.lower())
    default = {"https": 443, "http": 80}.get(parts.scheme, 0)
    if not (default and parts.hostname and text.isascii()) or "@" in text or parts.port == default:
        raise ValueError(f"not an origin: {text!r}")
    if text.lower() != f"{parts.scheme}://{parts.netloc}" or "*" in text:
        raise ValueError(f"not an origin: {text!r}")
    return text.lower().encode()


def _media_type(fields: Mapping[bytes, bytes]) -> bytes:
    value = fields.get(b"content-type", b"")
    return value.partition(b";")[0].partition(b",")[0].strip().lower()
