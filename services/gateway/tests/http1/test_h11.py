"""h11 parses every accepted request the same way."""

from contextlib import suppress

import h11
import pytest
from corpus import CORPUS, Decider, Entry, short_name
from harness.messages import try_parse
from harness.strategies import whole_requests
from hypothesis import given

from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request

#: Where we accept what h11 rejects or treats differently, and why that is right.
KNOWN_DIFFERENCES = {
    "Host": "a request without it parses; admission rejects it, in any version of HTTP",
    "trailers": "h11 takes framing fields in them for framing; here they are plain fields, and not forwarded",
    "target": "h11 rejects bytes beyond ASCII, which some clients send; admission escapes them",
}


def by_h11(data: bytes) -> tuple[h11.Request, bytes, Fields | None, bytes]:
    """Parse with h11. Return the head, the content, the trailers if complete, and what follows."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    content, trailers = b"", None
    with suppress(h11.RemoteProtocolError):
        while isinstance(event := connection.next_event(), h11.Data):
            content += event.data
        if isinstance(event, h11.EndOfMessage):
            trailers = list(event.headers)
    return head, content, trailers, connection.trailing_data[0]


def by_us(data: bytes) -> tuple[Request, bytes, Fields | None, bytes] | None:
    """Parse with `http1`. Return the same; None if the request is rejected or its head incomplete."""
    outcome = try_parse([data])
    if isinstance(outcome, str):
        return None
    head, rest = outcome
    if head.body is None:
        return head, b"", [], rest
    try:
        content, surplus = head.body.take(rest)
    except BadMessage:
        return None
    return head, content, head.body.trailers if head.body.done else None, surplus


def assert_h11_agrees(data: bytes) -> str:
    """Assert that h11 parses an accepted request the same way. Return what became of the request."""
    outcome = by_us(data)
    if outcome is None:
        return "rejected"
    ours, content, trailers, surplus = outcome
    version = data.partition(b"\r\n")[0][-3:]
    if version == b"1.1" and b"host" not in ours.by_name:
        with pytest.raises(h11.RemoteProtocolError, match="Host"):
            by_h11(data)
        return "Host"
    if not ours.target.isascii():
        with pytest.raises(h11.RemoteProtocolError):
            by_h11(data)
        return "target"
    theirs, their_content, their_trailers, their_surplus = by_h11(data)
    assert theirs.method.decode() == ours.method
    assert theirs.target == ours.target
    assert theirs.http_version == version
    assert ours.is_http11 is (version != b"1.0")
    # h11 lower-cases the name of a coding.
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in ours.fields]
    assert list(theirs.headers) == fields
    assert their_content == content
    if trailers is None:
        return "incomplete"
    if {name for name, _ in trailers} & {b"content-length", b"transfer-encoding"}:
        return "trailers"
    assert (their_trailers, their_surplus) == (trailers, surplus)
    return "complete"


@given(data=whole_requests)
def test_h11_parses_accepted_requests_the_same_way(data: bytes) -> None:
    assert_h11_agrees(data)


@pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.ADMISSION], ids=short_name)
def test_h11_parses_the_corpus_the_same_way(entry: Entry) -> None:
    became = assert_h11_agrees(entry.data)
    assert became == "complete" or became in KNOWN_DIFFERENCES


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", id="bare line feeds"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\r\n\r\n", id="a bare line feed"),
        pytest.param(HEAD + b"X-A: a\r\n b\r\n\r\n", id="a folded line"),
        pytest.param(HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", id="a folded coding"),
        pytest.param(HEAD + b"X-A: a\x01b\r\n\r\n", id="control characters in values"),
        pytest.param(HEAD + b"X-A: a\x7fb\r\n\r\n", id="DEL in values"),
        pytest.param(HEAD + b"Content-Length: 5, 5\r\n\r\nhello", id="a list of lengths"),
        pytest.param(HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", id="the same length again"),
        pytest.param(HEAD + b"Content-Length: 0000000000000000005\r\n\r\nhello", id="more than 18 digits"),
        pytest.param(
            HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="length and chunks"
        ),
        pytest.param(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunks in HTTP/1.0"),
        pytest.param(HEAD + b"Content-Type: a\r\nContent-Type: b\r\n\r\n", id="two content types"),
        pytest.param(HEAD + b"Upgrade: a\r\nUpgrade: b\r\n\r\n", id="two upgrades"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", id="another major version"),
        pytest.param(HEAD + b"X-A: b\r\n" * 128 + b"\r\n", id="many fields"),
        pytest.param(HEAD + b"X-A: " + b"b" * 33_000 + b"\r\n\r\n", id="a large head"),
        pytest.param(CHUNKS + b"5 \r\nhello\r\n0\r\n\r\n", id="a space after a chunk's size"),
        pytest.param(CHUNKS + b"5;\x00\r\nhello\r\n0\r\n\r\n", id="control characters in extensions"),
        pytest.param(CHUNKS + b"0000000000000005\r\nhello\r\n0\r\n\r\n", id="more than 15 digits"),
        pytest.param(CHUNKS + b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n", id="a long extension"),
        pytest.param(CHUNKS + b"0\r\nX-A: b\nX-B: c\n\r\n\r\n", id="a bare line feed among trailers"),
        pytest.param(CHUNKS + b"0\r\nX-A: b\r\n c\r\n\r\n", id="a folded trailer"),
        pytest.param(CHUNKS + b"0\r\n\n", id="a bare line feed instead of trailers"),
    ],
)
def test_requests_that_h11_leniently_accepts_are_rejected(data: bytes) -> None:
    assert by_h11(data)[2] is not None
    outcome = by_us(data)
    assert outcome is None or outcome[2] is None
