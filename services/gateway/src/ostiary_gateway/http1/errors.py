"""Errors of the parser.

BadMessage
├── TooLarge
│   └── LineTooLong
├── NoRoom
├── UnknownVersion
└── UnknownCoding
"""


class BadMessage(Exception):
    """The message is malformed, or two parsers could read it differently."""


class TooLarge(BadMessage):
    """A head, a chunk's size line or a trailer section exceeds its limit."""


class LineTooLong(TooLarge):
    """The first line of a head alone exceeds the head's limit."""


class NoRoom(BadMessage):
    """There is no memory for a large head, because of other ones."""


class UnknownVersion(BadMessage):
    """A request of another major version of HTTP."""


class UnknownCoding(BadMessage):
    """A request body in another transfer coding before the last one, which is chunked."""
