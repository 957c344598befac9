"""The second target of COPY and MOVE: the resource that they write to (RFC 4918 section 10.3).

A service takes it for a path of its own, as it does the request's. So it is read, rewritten and authorised in the same
way, and has to be where the request itself goes.
"""

import re

from ostiary.http import Problem
from ostiary_chassis.problems import ProblemError
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing import paths
from ostiary_gateway.routing.hosts import InvalidHost, parse_authority

DESTINATION_METHODS = frozenset({"COPY", "MOVE"})

FOREIGN_DESTINATION = Problem(
    403, "foreign_destination", "Destination is not where this request goes: name the same host, and a path there."
)
_INVALID_DESTINATION = Problem(
    400, "invalid_destination", "Send one Destination: a path, or a URL with the request's host, without a query."
)

_DESTINATION = re.compile(rb"(?:(https?:)//([^/?#]*))?(/[^?#]*)\Z", re.IGNORECASE)


class Destination:
    """A destination under the request's host."""

    def __init__(self, scheme: bytes, path: bytes) -> None:
        #: What the client wrote before the host, `https:`; b"" if it sent a path alone.
        self._scheme = scheme
        #: In its canonical form.
        self.path = path

    def on_upstream(self, path: bytes) -> "Destination":
        """Return the destination by the path that the service gets."""
        return Destination(self._scheme, path)

    def value(self, host: bytes) -> bytes:
        """Return the field for a service that gets this `Host`."""
        return b"%b//%b%b" % (self._scheme, host, self.path) if self._scheme else self.path


def destination_of(request: Request, host: bytes) -> Destination | None:
    """Return where a COPY or MOVE to a host writes to; None if it does not say. Raises ProblemError or InvalidPath."""
    values = [value for name, value in request.fields if name == b"destination"]
    if not values:
        return None
    match = _DESTINATION.match(values[0])
    if match is None or len(values) > 1:
        raise ProblemError(_INVALID_DESTINATION)
    if match[1] is not None and not _is_same_host(match[2], host):
        raise ProblemError(FOREIGN_DESTINATION)
    return Destination(match[1] or b"", paths.canonicalise(match[3]).raw)


def _is_same_host(authority: bytes, host: bytes) -> bool:
    """Compare names alone: ports and schemes change on the way through proxies."""
    try:
        return parse_authority(authority)[0] == parse_authority(host)[0]
    except InvalidHost:
        return False
