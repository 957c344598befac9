"""Request methods by what they do (RFC 9110 section 9.2).

The sets are those of IANA's method registry (https://www.iana.org/assignments/http-methods), without CONNECT and TRACE,
which no route takes. Other methods are neither safe nor idempotent, as nobody has said that they are.
"""

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "QUERY", "REPORT", "SEARCH"})

IDEMPOTENT = SAFE | {
    *("PUT", "DELETE"),
    # WebDAV and its extensions (RFC 4918, 3253, 3648, 3744, 4437, 4791, 5842).
    *("ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "MERGE", "MKACTIVITY", "MKCALENDAR"),
    *("MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPPATCH", "REBIND", "UNBIND", "UNCHECKOUT"),
    *("UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"),
    # RFC 2068.
    *("LINK", "UNLINK"),
}

#: All that have a meaning to anybody but one service.
KNOWN = IDEMPOTENT | {"LOCK", "PATCH", "POST"}
