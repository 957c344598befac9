"""Messages as they are sent."""

import pytest
from harness.messages import cut_up, try_dechunk
from harness.strategies import CUTS, contents, trailer_fields
from hypothesis import given

from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import head_end, parse_response
from ostiary_gateway.http1.serializer import CONTINUE, chunk, last_chunk, status_line


class TestStatusLine:
    """RFC 9112 section 4."""

    @pytest.mark.parametrize(
        ("status", "line"),
        [
            (200, b"HTTP/1.1 200 OK\r\n"),
            (404, b"HTTP/1.1 404 Not Found\r\n"),
            (299, b"HTTP/1.1 299 \r\n"),
            (599, b"HTTP/1.1 599 \r\n"),
        ],
    )
    def test_status_lines_have_the_standard_reason_phrase(self, status: int, line: bytes) -> None:
        assert status_line(status) == line

    def test_status_lines_parse_back(self) -> None:
        for status in range(100, 600):
            assert parse_response(status_line(status) + b"\r\n", "GET").status == status

    def test_100_continue_is_an_interim_response(self) -> None:
        assert head_end(CONTINUE) == len(CONTINUE)
        head = parse_response(CONTINUE, "POST")
        assert head.status == 100
        assert not head.is_final


class TestChunks:
    """Bodies in chunks, as they are written."""

    def test_chunks_have_no_extensions(self) -> None:
        assert chunk(b"hello") == b"5\r\nhello\r\n"
        assert chunk(b"a" * 31) == b"1f\r\n" + b"a" * 31 + b"\r\n"
        assert last_chunk() == b"0\r\n\r\n"
        assert last_chunk(b"x-a: b\r\nx-c: \r\n") == b"0\r\nx-a: b\r\nx-c: \r\n\r\n"


@given(pieces=contents, trailers=trailer_fields, cuts=CUTS)
def test_chunked_bodies_decode_back(pieces: list[bytes], trailers: Fields, cuts: list[int]) -> None:
    data = b"".join(
        [*[chunk(piece) for piece in pieces], last_chunk(b"".join([b"%b: %b\r\n" % field for field in trailers]))]
    )
    assert try_dechunk(cut_up(data + b"rest", cuts)) == (b"".join(pieces), trailers, b"rest")
