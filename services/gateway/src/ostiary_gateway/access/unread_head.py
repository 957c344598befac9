"""What can be told of a head that is too long or invalid: enough to let a page read the response.

A head over the limit is read on until its origin is known, and only what is needed is kept: browsers send the origin
after a long target.
"""

import re
from typing import Final

#: Bytes of a head that are searched.
MAX_SEARCHED: Final = 1024 * 1024

#: Bytes of the request line that are kept, and of a line that is looked for.
_MAX_REQUEST_LINE: Final = 8192
_MAX_LINE: Final = 600

_TARGET = re.compile(rb"(?:\r\n)?[^ \r\n]{1,64} (/[^ ?#\r\n]*)[ ?]")
_HOST = re.compile(rb"\r\nhost:[ \t]*([\x21-\x7e]{1,512})[ \t]*(?=\r\n)", re.IGNORECASE)
_ORIGIN = re.compile(rb"\r\norigin:[ \t]*([\x21-\x7e]{1,512})[ \t]*(?=\r\n)", re.IGNORECASE)


class UnreadHead:
    """A head that is no request. No I/O here."""

    def __init__(self, data: bytes) -> None:
        """Search `data`: what has been received of the head, and perhaps of what follows."""
        target = _TARGET.match(data, 0, _MAX_REQUEST_LINE)
        self.path: bytes = target[1] if target is not None else b""
        self._hosts: set[bytes] = set()
        self._origins: set[bytes] = set()
        self._size = 0
        self._tail = b""
        self._is_complete = False
        self.take(data)

    def take(self, data: bytes) -> None:
        """Search what has been received further."""
        self._size += len(data)
        data = self._tail + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            self._is_complete = True
            data = data[: end + 2]
        self._hosts.update(_HOST.findall(data))
        self._origins.update(_ORIGIN.findall(data))
        # A line may go on.
        self._tail = data[-_MAX_LINE:]

    @property
    def host(self) -> bytes:
        """The host, b"" if there is none."""
        return _only(self._hosts)

    @property
    def origin(self) -> bytes:
        """The origin, b"" if there is none."""
        return _only(self._origins)

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be looked for."""
        return self._is_complete or self._size > MAX_SEARCHED or (bool(self._origins) and bool(self._hosts))


def _only(values: set[bytes]) -> bytes:
    return next(iter(values)) if len(values) == 1 else b""
