"""Why a message is rejected."""


class BadMessage(Exception):
    """A message that is not valid, or that could be read in two ways."""


class TooLarge(BadMessage):
    """A head, a chunk's line or a trailer section over its limit."""


class UnknownVersion(BadMessage):
    """A request of another major version of HTTP."""


class UnknownCoding(BadMessage):
    """A request body in a transfer coding other than chunked."""
