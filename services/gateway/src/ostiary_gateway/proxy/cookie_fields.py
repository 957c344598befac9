"""What responses say about the cookies of browser sessions, to clients and to caches on the way.

Services must not set these cookies, and what is one person's must not come out of a cache for another (RFC 9111 section
7.3). Interim responses and 304 are not about that: they set no cookies, and a 304 completes what a cache has.
"""

import re
from typing import Final

from ostiary.browser import resembles_ours
from ostiary_gateway.access.rules import COUNTED, FROM_ISSUER, SESSIONS, UNCOUNTED, VARIES
from ostiary_gateway.http1.fields import Fields, with_member
from ostiary_gateway.http1.parser import Response
from ostiary_gateway.http1.status import NOT_MODIFIED

#: The service says that its response is for everybody (RFC 9111 sections 5.2.2.9 and 5.2.2.10).
_FOR_ALL = re.compile(rb"(?:\A|,)[ \t]*(?:public|s-maxage)[ \t]*(?:[=,]|\Z)", re.IGNORECASE)
_PRIVATE = re.compile(rb"(?:\A|,)[ \t]*private[ \t]*(?:[,]|\Z)", re.IGNORECASE)

#: Some caches follow a field of their own and not `Cache-Control`: `CDN-Cache-Control` and others (RFC 9213 section 2),
#: and what preceded them.
_TARGETED_SUFFIX: Final = b"-cache-control"
_TARGETED: Final = frozenset({b"surrogate-control", b"x-accel-expires"})
_NOT_KEPT = re.compile(rb"(?:\A|,)[ \t]*(?:no-store|private)[ \t]*(?:,|\Z)", re.IGNORECASE)

_SET_COOKIE: Final = frozenset({b"set-cookie", b"set-cookie2"})

#: What makes more of it than lines to add.
_OWN_WORDS: Final = _SET_COOKIE | {b"vary", b"cache-control"}

_VARY_LINE: Final = b"vary: Cookie\r\n"
_PRIVATE_LINE: Final = b"cache-control: private\r\n"
_NO_STORE_LINE: Final = b"cache-control: no-store\r\n"


def may_set_cookie(response: Response) -> bool:
    """Return whether a response may set a cookie of a session: no cache may give it to others."""
    return (
        response.is_final
        and response.status != NOT_MODIFIED
        and not (b"cache-control" in response.by_name and _is_for_all(response.fields))
        and not _is_for_some_caches(response.fields)
    )


def lines_to_add(response: Response, rules: int) -> bytes | None:
    """Return what `with_cookie_rules` adds to a response that says nothing about it itself; None if that is not all.

    Most are of this kind, and adding lines takes less time.
    """
    if not response.is_final or not _OWN_WORDS.isdisjoint(response.by_name):
        return None
    lines = _VARY_LINE if rules & VARIES else b""
    if rules & COUNTED:
        return lines + _PRIVATE_LINE
    return lines + _NO_STORE_LINE if rules & UNCOUNTED else lines


def with_cookie_rules(response: Response, fields: Fields, rules: int) -> Fields:
    """Return a response's `fields` for a client. `rules` are bits of `access.rules`; 0 changes nothing."""
    if not rules & SESSIONS:
        return fields
    by_name = response.by_name
    if (b"set-cookie" in by_name or b"set-cookie2" in by_name) and not (
        rules & FROM_ISSUER and may_set_cookie(response)
    ):
        fields = [field for field in fields if field[0] not in _SET_COOKIE or not resembles_ours(field[1])]
    if not response.is_final:
        return fields
    if rules & VARIES:
        fields = with_member(fields, b"vary", b"Cookie")
    if rules & COUNTED and not (b"cache-control" in by_name and (_is_for_all(fields) or _is_private(fields))):
        fields = with_member(fields, b"cache-control", b"private")
    elif rules & UNCOUNTED and not (b"cache-control" in by_name and _is_for_all(fields)):
        # By the same cookies, another page gets another response: whose the page is, `Vary: Cookie` does not tell.
        fields = with_member(fields, b"cache-control", b"no-store")
    return fields


def _is_for_all(fields: Fields) -> bool:
    return any([_FOR_ALL.search(value) is not None for name, value in fields if name == b"cache-control"])  # noqa: C419 - compiled code


def _is_private(fields: Fields) -> bool:
    return any([_PRIVATE.search(value) is not None for name, value in fields if name == b"cache-control"])  # noqa: C419 - the same


def _is_for_some_caches(fields: Fields) -> bool:
    return any(
        [  # noqa: C419 - the same
            _NOT_KEPT.search(value) is None
            for name, value in fields
            if name in _TARGETED or name.endswith(_TARGETED_SUFFIX)
        ]
    )
