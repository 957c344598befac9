"""Responses that deviate from the grammar: what is mended, and what could be framing and is not."""

import pytest
from harness.messages import request, response

from ostiary_gateway.http1.body import ChunkedBody, ContentLengthBody
from ostiary_gateway.http1.errors import BadMessage, TooLarge
from ostiary_gateway.http1.fields import MAX_RESPONSE_FIELDS

CASES = [
    # RFC 9112 section 5.2: each fold becomes a space.
    ((b"A: b", b" c", b"\t d", b"E: f"), [(b"a", b"b c d"), (b"e", b"f")]),
    ((b"A:", b" b", b" ", b"C: d"), [(b"a", b"b"), (b"c", b"d")]),
    # Section 5.1: space before the colon is removed.
    ((b"A : b", b"C\t: d"), [(b"a", b"b"), (b"c", b"d")]),
    # What has no name is dropped.
    ((b"A: b", b"C D: e", b"F(g): h", b"no colon", b": i", b"\xc3\xa4: j", b"K: l"), [(b"a", b"b"), (b"k", b"l")]),
    ((b"A B: c", b" d", b"E: f"), [(b"e", b"f")]),
]


@pytest.mark.parametrize(("lines", "fields"), CASES)
def test_lines_of_responses_are_mended(lines: tuple[bytes, ...], fields: list[tuple[bytes, bytes]]) -> None:
    head = response(b"Content-Length: 0", *lines)
    assert head.fields == [(b"content-length", b"0"), *fields]
    # Whoever reads the same bytes differently reads no other message so.
    assert not head.keep_alive
    assert response(b"Content-Length: 0").keep_alive


@pytest.mark.parametrize("lines", [lines for lines, _ in CASES])
def test_lines_of_requests_are_not(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(BadMessage):
        request(b"Host: a", *lines)


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length : 0",),
        (b"Content-Length", b"Content-Length: 0"),
        (b"Content-Length:", b" 0"),
        (b"Content-Length: 1", b" 0"),
        (b"Transfer-Encoding : chunked",),
        (b"Transfer-Encoding:", b"\tchunked"),
        (b"Transfer-Encoding\xa0: chunked",),
        (b"X Transfer-Encoding: chunked",),
        (b" A: b",),
        (b" Content-Length: 0",),
        # Control characters, and bare line ends, are no oversight.
        (b"A: b\x00c",),
        (b"A: b\rc",),
        (b"A: b\nC: d",),
        (b"A: b", b" c\x1b"),
        (b"no colon\x01",),
    ],
)
def test_what_may_be_framing_is_not_mended(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(BadMessage):
        response(*lines)


@pytest.mark.parametrize(
    "lines", [(b"Content-Length: 5", b"Content-length:5"), (b"Content-Length: 5, 5",), (b"Content-Length: 5,5 ,\t5",)]
)
def test_a_repeated_length_counts_once(lines: tuple[bytes, ...]) -> None:
    body = response(*lines).body
    assert isinstance(body, ContentLengthBody)
    assert body.left == 5
    assert response(*lines).by_name[b"content-length"] == b"5"


def test_other_repeated_fields_count_once_or_are_kept() -> None:
    assert isinstance(response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked").body, ChunkedBody)
    same = response(b"Content-Type: text/html", b"Content-Type: text/html", b"Content-Length: 0")
    assert same.fields == [(b"content-type", b"text/html"), (b"content-length", b"0")]
    assert same.keep_alive
    for name in (b"Content-Type", b"Set-Cookie", b"Host", b"Expect", b"Origin", b"Location", b"Date"):
        assert len(response(name + b": a", name + b": b").fields) == 2
    assert len(response(b"Set-Cookie: a", b"Set-Cookie: a").fields) == 2


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: 5", b"Content-Length: 05"),
        (b"Content-Length: 5, 6",),
        (b"Content-Length: 5,",),
        (b"Content-Length: ,",),
        (b"Content-Length: 5, 5", b"Content-Length: 6"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"),
        (b"Transfer-Encoding: chunked, chunked",),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
    ],
)
def test_different_lengths_are_an_error(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(BadMessage):
        response(*lines)


def test_the_number_of_fields_is_limited() -> None:
    assert len(response(*[b"Set-Cookie: a=b"] * MAX_RESPONSE_FIELDS).fields) == MAX_RESPONSE_FIELDS
    with pytest.raises(TooLarge):
        response(*[b"Set-Cookie: a=b"] * (MAX_RESPONSE_FIELDS + 1))
