"""Caching is invisible, and bounded."""

import pytest
from harness.messages import comparable, request, try_parse

from ostiary_gateway.http1 import fields, headers
from ostiary_gateway.http1.bounded_cache import MAX_CACHED_BYTES, MAX_ENTRIES, BoundedCache
from ostiary_gateway.http1.errors import BadMessage


class TestCaching:
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
    def test_repeated_lines_mean_the_same(self, lines: tuple[bytes, ...]) -> None:
        heads_of_lines = [b"POST / HTTP/1.1\r\n" + line + b"\r\n\r\n" for line in lines]
        first = [comparable(try_parse([head])) for head in heads_of_lines]
        assert [comparable(try_parse([head])) for head in heads_of_lines] == first

    @pytest.mark.parametrize("line", [b"A : b", b" A: b", b"A: b\x00", b"Content-Length: +5", b"Transfer-Encoding: x"])
    def test_rejected_lines_are_rejected_again(self, line: bytes) -> None:
        for _ in range(3):
            with pytest.raises(BadMessage):
                request(line)

    def test_messages_share_no_mutable_state(self) -> None:
        lines = (b"Transfer-Encoding: chunked", b"X-A: b")
        first, second = request(*lines), request(*lines)
        assert first.body is not second.body
        assert first.fields is not second.fields
        assert first.by_name is not second.by_name

    @pytest.mark.parametrize(
        ("name", "value"),
        [(b"x" * MAX_CACHED_BYTES, b"a"), (b"x-a", b"a" * MAX_CACHED_BYTES), (b"x-session", b"a"), (b"dpop-key", b"a")],
    )
    def test_long_fields_and_secrets_are_not_cached(self, name: bytes, value: bytes) -> None:
        line = b"%b: %b" % (name, value)
        assert line in headers.request_filter().serialize(request(line).fields, ())
        headers.to_client([(name, value)], ())
        assert line not in fields._FIELDS
        assert (name, value) not in headers.request_filter()._lines
        assert (name, value) not in headers._LINES_TO_CLIENT

    def test_short_fields_are_cached(self) -> None:
        headers.request_filter().serialize(request(b"X-Cached: a").fields, ())
        assert b"X-Cached: a" in fields._FIELDS
        assert (b"x-cached", b"a") in headers.request_filter()._lines


class TestBoundedCache:
    def test_a_cache_is_bounded(self) -> None:
        cache: BoundedCache[int, int] = BoundedCache(lambda number: number + 1, lambda number, _: number % 2 == 0)
        for number in range(4 * MAX_ENTRIES):
            assert cache[number] == number + 1
            assert len(cache) <= MAX_ENTRIES
        assert not any(number % 2 for number in cache)
