"""Errors of the parser.

BadMessage
├── TooLarge
├── UnknownVersion
└── UnknownCoding
"""


class BadMessage(Exception):
    """The message is malformed, or two parsers could read it differently."""


class TooLarge(BadMessage):
    """A head, a chunk's size line or a trailer section exceeds its limit."""


class UnknownVersion(BadMessage):
    """A request of another major version of HTTP."""


class UnknownCoding(BadMessage):
    """A request body in a transfer coding other than chunked."""
