"""Responses that go on until somebody ends them, and may be silent for long: streams of events."""

from ostiary_gateway.http1.bounded_cache import BoundedCache, is_short
from ostiary_gateway.http1.parser import Response

_MEDIA_TYPES = frozenset(
    {
        b"text/event-stream",  # HTML standard, section 9.2
        b"application/json-seq",  # RFC 7464
        b"application/jsonl",
        b"application/ndjson",
        b"application/stream+json",
        b"application/vnd.amazon.eventstream",
        b"application/x-ndjson",
        b"multipart/x-mixed-replace",
    }
)

#: gRPC-Web and Connect name the encoding of their messages, too.
_PREFIXES = (b"application/grpc", b"application/connect+")


def is_stream(response: Response) -> bool:
    """Whether a response is a stream by its media type."""
    content_type = response.by_name.get(b"content-type")
    return content_type is not None and _IS_STREAM[content_type]


def _is_stream(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type in _MEDIA_TYPES or media_type.startswith(_PREFIXES)


_IS_STREAM = BoundedCache(_is_stream, is_short)
