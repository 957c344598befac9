"""The media type of a request's body (RFC 9110 section 8.3)."""

from dataclasses import dataclass

from starlette.requests import Request

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

#: The changes of a PATCH, which are merged (RFC 7396).
MERGE_PATCH = "application/merge-patch+json"

#: Names of the only character encoding, and of the part of it that ASCII is.
_UTF_8 = frozenset({"", "utf-8", "utf8", "us-ascii"})


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type in lower case, and whether the text is in UTF-8. The name is "" without a valid type."""

    name: str
    is_utf_8: bool

    @classmethod
    def of(cls, request: Request) -> "MediaType":
        name, *parameters = ", ".join(request.headers.getlist("content-type")).split(";")
        pairs = (parameter.partition("=") for parameter in parameters)
        charsets = {value.strip().strip("\"'").lower() for key, _, value in pairs if key.strip().lower() == "charset"}
        return cls(name.strip().lower(), charsets <= _UTF_8)


def is_json(request: Request) -> bool:
    """Return whether a request's body is JSON in UTF-8 by its fields, and not compressed."""
    media_type = MediaType.of(request)
    is_known = media_type.name == JSON or (media_type.name == MERGE_PATCH and request.method == "PATCH")
    return is_known and media_type.is_utf_8 and request.headers.get("content-encoding", "identity") == "identity"
