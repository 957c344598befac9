"""Caching is invisible, and bounded."""

import pytest
from harness.messages import comparable, parse_head, request

from ostiary_gateway.http1.bounded_cache import MAX_ENTRIES, BoundedCache
from ostiary_gateway.http1.errors import BadMessage


class TestMemo:
    """What was read once is not read again, and nobody can tell."""

    @pytest.mark.parametrize(
        "lines",
        [
            (
                b"Content-Length: 5",
                b"content-length: 5",
                b"Content-Length: 05",
                b"Content-Length:5 ",
                b"Content-Length: 6",
            ),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"transfer-encoding:chunked"),
            (b"Connection: close", b"Connection: Close", b"Connection: closed", b"Connection: x, close"),
            (b"Cookie: a=b", b"cookie: a=b", b"Cookie: a=B"),
        ],
    )
    def test_what_is_read_again_means_the_same(self, lines: tuple[bytes, ...]) -> None:
        heads_of_lines = [b"POST / HTTP/1.1\r\n" + line + b"\r\n\r\n" for line in lines]
        first = [comparable(parse_head([head])) for head in heads_of_lines]
        assert [comparable(parse_head([head])) for head in heads_of_lines] == first

    @pytest.mark.parametrize("line", [b"A : b", b" A: b", b"A: b\x00", b"Content-Length: +5", b"Transfer-Encoding: x"])
    def test_what_was_refused_is_refused_again(self, line: bytes) -> None:
        for _ in range(3):
            with pytest.raises(BadMessage):
                request(line)

    def test_messages_share_nothing_that_changes(self) -> None:
        lines = (b"Transfer-Encoding: chunked", b"X-A: b")
        first, second = request(*lines), request(*lines)
        assert first.body is not second.body
        assert first.fields is not second.fields
        assert first.by_name is not second.by_name


class TestBoundedCache:
    def test_it_does_not_grow_without_end(self) -> None:
        memo: BoundedCache[int, int] = BoundedCache(lambda number: number + 1, lambda number, _: number % 2 == 0)
        for number in range(4 * MAX_ENTRIES):
            assert memo[number] == number + 1
            assert len(memo) <= MAX_ENTRIES
        assert not any(number % 2 for number in memo)
