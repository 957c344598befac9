"""Properties of all messages, however their bytes arrive."""

from harness.messages import comparable, cut_up, take, try_dechunk, try_parse
from harness.strategies import CUTS, chunked_bodies, mutated, whole_requests
from hypothesis import given
from hypothesis import strategies as st

from ostiary_gateway.http1.body import Body, ContentLengthBody
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import MAX_FIELDS
from ostiary_gateway.http1.parser import parse_request, parse_response


@given(data=chunked_bodies(), cuts=CUTS)
def test_chunked_bodies_decode_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = try_dechunk([data])
    assert not isinstance(whole, str)
    assert try_dechunk(cut_up(data, cuts)) == whole
    assert try_dechunk([data[index : index + 1] for index in range(len(data))]) == whole


@given(data=mutated(chunked_bodies()), cuts=CUTS)
def test_malformed_chunked_bodies_decode_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    assert try_dechunk(cut_up(data, cuts)) == try_dechunk([data])


@given(data=whole_requests, cuts=CUTS)
def test_heads_parse_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = comparable(try_parse([data]))
    assert comparable(try_parse(cut_up(data, cuts))) == whole
    assert comparable(try_parse([data[index : index + 1] for index in range(len(data))])) == whole


@given(length=st.integers(0, 40), data=st.binary(max_size=60), cuts=CUTS)
def test_bodies_with_a_length_decode_the_same_however_they_are_cut(length: int, data: bytes, cuts: list[int]) -> None:
    body: Body = ContentLengthBody(length)
    assert take(body, cut_up(data, cuts)) == (data[:length], data[length:])
    assert body.done is body.end() is (len(data) >= length)


RESPONSES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.0 204 \r\nConnection: keep-alive, x\r\n\r\n"),
        *(b"HTTP/1.1 304\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ]
)


@given(data=st.binary(max_size=60) | whole_requests | mutated(RESPONSES), method=st.sampled_from(["GET", "HEAD"]))
def test_any_bytes_parse_or_raise_bad_message(data: bytes, method: str) -> None:
    assert isinstance(try_parse([data]), str | tuple)
    for parse in (lambda: parse_request(data), lambda: parse_response(data, method)):
        try:
            head = parse()
        except BadMessage:
            continue
        assert len(head.fields) <= MAX_FIELDS
        assert all(name == name.lower() and value == value.strip(b"\t ") for name, value in head.fields)
        assert not any(set(value) & {0, 10, 13} for _, value in head.fields)


@given(data=st.binary(max_size=60) | mutated(chunked_bodies()))
def test_any_bytes_decode_as_chunks_or_raise_bad_message(data: bytes) -> None:
    assert try_dechunk([data]) == try_dechunk(cut_up(data, [3, 7]))
