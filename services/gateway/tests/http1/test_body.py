"""RFC 9112 sections 6 and 7: where bodies end, and chunked bodies."""

import pytest
from corpus import CORPUS, SMUGGLED, Decider, Entry, Outcome, short_name
from harness.messages import dechunk, parse_one, request, response

from ostiary_gateway.http1.body import (
    MAX_CHUNK_LINE_BYTES,
    MAX_TRAILER_BYTES,
    ChunkedBody,
    CloseDelimitedBody,
    ContentLengthBody,
)
from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownCoding
from ostiary_gateway.http1.fields import MAX_FIELDS
from ostiary_gateway.http1.parser import head_end, parse_request


class TestCorpus:
    """Requests that servers are known to parse differently."""

    @pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.BODY], ids=short_name)
    def test_ambiguous_bodies_are_rejected(self, entry: Entry) -> None:
        assert entry.outcome is Outcome.REJECTED
        end = head_end(entry.data)
        body = parse_request(entry.data[:end]).body
        assert body is not None
        with pytest.raises(BadMessage):
            body.take(entry.data[end:])


LENGTHS = [
    *(
        b"+5",
        b"-1",
        b"-0",
        b"0x5",
        b"5, 5",
        b"5,5",
        b"5,",
        b",5",
        b"5 5",
        b"5;",
        b"5.0",
        b"5e0",
        b"5_0",
        b'"5"',
        b"five",
    ),
    *(
        b"",
        b"1" + b"0" * 18,
        b"9" * 19,
        b"18446744073709551621",
        b"0" * 18 + b"5",
        b"9" * 5000,
        b"\xef\xbc\x95",
        b"\xb2",
    ),
    *(b"\xa05", b"5\x85"),
]


class TestContentLength:
    """RFC 9110 section 8.6, RFC 9112 section 6.2."""

    @pytest.mark.parametrize(
        ("value", "length"), [(b"5", 5), (b" 5", 5), (b"\t5 \t", 5), (b"007", 7), (b"9" * 18, 10**18 - 1)]
    )
    def test_a_length_is_decimal_digits(self, value: bytes, length: int) -> None:
        for body in (request(b"Content-Length:" + value).body, response(b"Content-Length:" + value).body):
            assert isinstance(body, ContentLengthBody)
            assert body.left == length
            assert not body.done

    @pytest.mark.parametrize("value", LENGTHS)
    def test_other_lengths_are_rejected(self, value: bytes) -> None:
        # Responses may repeat one length.
        for method in ("GET", "HEAD") if value not in {b"5, 5", b"5,5"} else ():
            with pytest.raises(BadMessage, match="Content-Length"):
                response(b"Content-Length: " + value, method=method)
        with pytest.raises(BadMessage, match="Content-Length"):
            request(b"Content-Length: " + value)

    def test_an_empty_body_is_done_at_once(self) -> None:
        body = request(b"Content-Length: 0").body
        assert body is not None
        assert body.done
        assert body.end()
        assert body.take(b"rest") == (b"", b"rest")

    def test_a_request_without_a_length_has_no_body(self) -> None:
        assert request().body is None
        assert request(first=b"POST / HTTP/1.0").body is None

    def test_a_body_ends_after_its_length(self) -> None:
        body = ContentLengthBody(5)
        assert body.take(b"") == (b"", b"")
        assert body.take(b"hel") == (b"hel", b"")
        assert (body.done, body.end()) == (False, False)
        assert body.take(b"lo, you") == (b"lo", b", you")
        assert (body.done, body.end()) == (True, True)
        assert body.trailers == []

    def test_a_body_that_arrives_whole_leaves_no_surplus(self) -> None:
        body = ContentLengthBody(5)
        assert body.take(b"hello") == (b"hello", b"")
        assert body.done


CODINGS = [
    *(b"xchunked", b"chunkedx", b"chunked, identity", b"identity", b"gzip", b"chunked, gzip", b"gzip chunked"),
    *(
        b"chunked, chunked",
        b"chunked;q=1",
        b"chunked;",
        b"chunked,",
        b",chunked",
        b"chunked chunked",
        b'"chunked"',
        b"",
    ),
    *(b"\xa0chunked", b"chunked\x85", b"chun\xe2\x84\xaaed", b"c"),
    *(b"chunked, gzip, chunked", b"gz ip, chunked", b"gzip;, chunked", b"\xffgzip, chunked", b", gzip, chunked"),
]


class TestTransferEncoding:
    """RFC 9112 sections 6.1 and 7."""

    @pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked \t"])
    def test_chunked_is_case_insensitive(self, value: bytes) -> None:
        assert isinstance(request(b"Transfer-Encoding:" + value).body, ChunkedBody)
        assert isinstance(response(b"Transfer-Encoding:" + value).body, ChunkedBody)

    @pytest.mark.parametrize("value", CODINGS)
    def test_codings_that_do_not_end_with_one_chunked_are_rejected(self, value: bytes) -> None:
        with pytest.raises(BadMessage) as caught:
            request(b"Transfer-Encoding: " + value)
        assert type(caught.value) is BadMessage
        with pytest.raises(BadMessage, match="transfer coding"):
            response(b"Transfer-Encoding: " + value)

    @pytest.mark.parametrize(
        "value", [b"gzip, chunked", b"identity,chunked", b"GZIP ,\tChunked", b'x;q="a", gzip, chunked']
    )
    def test_other_codings_before_chunked_are_not_known(self, value: bytes) -> None:
        with pytest.raises(UnknownCoding):
            request(b"Transfer-Encoding: " + value)
        with pytest.raises(BadMessage, match="transfer coding"):
            response(b"Transfer-Encoding: " + value)

    @pytest.mark.parametrize("value", [b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"\x00chunked", b"chunked\x7f"])
    def test_control_characters_are_not_whitespace(self, value: bytes) -> None:
        with pytest.raises(BadMessage, match="field line"):
            request(b"Transfer-Encoding:" + value)

    @pytest.mark.parametrize("length", [b"0", b"5", b"x"])
    def test_a_request_with_a_coding_and_a_length_is_rejected(self, length: bytes) -> None:
        lines = [b"Transfer-Encoding: chunked", b"Content-Length: " + length]
        for each in (lines, lines[::-1], [*lines, b"Connection: content-length"]):
            with pytest.raises(BadMessage, match="both Transfer-Encoding and Content-Length"):
                request(*each)

    def test_codings_in_http_1_0_are_rejected(self) -> None:
        with pytest.raises(BadMessage, match=r"Transfer-Encoding in HTTP/1\.0"):
            request(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0")
        with pytest.raises(BadMessage, match=r"Transfer-Encoding in HTTP/1\.0"):
            response(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK")


class TestResponseBody:
    """RFC 9112 section 6.3, RFC 9110 section 6.4.1."""

    @pytest.mark.parametrize("lines", [(), (b"Content-Length: 5",), (b"Transfer-Encoding: chunked",)])
    def test_some_responses_have_no_body_despite_their_fields(self, lines: tuple[bytes, ...]) -> None:
        heads = [response(*lines, first=b"HTTP/1.1 %d X" % status) for status in (100, 101, 103, 199, 204, 304)]
        for head in [*heads, response(*lines, method="HEAD")]:
            assert isinstance(head.body, ContentLengthBody)
            assert head.body.done
            assert head.body.take(b"rest") == (b"", b"rest")

    def test_head_is_case_sensitive(self) -> None:
        assert isinstance(response(method="head").body, CloseDelimitedBody)

    def test_a_body_with_a_length_ends_after_it(self) -> None:
        head = response(b"Content-Length: 5")
        assert head.body.take(b"hello!") == (b"hello", b"!")
        assert head.keep_alive
        assert head.may_have_length

    def test_a_chunked_body_has_no_length(self) -> None:
        head = response(b"Transfer-Encoding: chunked")
        assert isinstance(head.body, ChunkedBody)
        assert head.keep_alive
        assert not head.may_have_length

    def test_chunked_overrides_a_length_and_the_connection_is_not_reused(self) -> None:
        for method in ("GET", "HEAD"):
            lines = [b"Transfer-Encoding: chunked", b"Content-Length: 5"]
            head, other = response(*lines, method=method), response(*lines[::-1], method=method)
            assert isinstance(head.body, ChunkedBody if method == "GET" else ContentLengthBody)
            assert not head.keep_alive
            assert not other.keep_alive
            assert not head.may_have_length

    def test_an_invalid_length_beside_chunked_is_rejected(self) -> None:
        with pytest.raises(BadMessage, match="Content-Length"):
            response(b"Transfer-Encoding: chunked", b"Content-Length: x")

    def test_a_body_of_unknown_length_ends_with_the_connection(self) -> None:
        head = response(b"Connection: keep-alive")
        assert isinstance(head.body, CloseDelimitedBody)
        assert not head.keep_alive
        assert head.body.take(b"0\r\n\r\n") == (b"0\r\n\r\n", b"")
        assert (head.body.done, head.body.end(), head.body.done) == (False, True, True)
        assert head.body.trailers == []

    def test_a_length_is_meaningless_with_204_but_not_with_304(self) -> None:
        assert not response(b"Content-Length: 5", first=b"HTTP/1.1 204 No Content").may_have_length
        assert response(b"Content-Length: 5", first=b"HTTP/1.1 304 Not Modified").may_have_length


class TestChunkedBody:
    """RFC 9112 section 7.1."""

    @pytest.mark.parametrize(
        ("data", "content"),
        [
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"0\r\n\r\n", b""),
            (b"000\r\n\r\n", b""),
            (b"1\r\n0\r\n1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", b"0\r\n"),
            (b"00A\r\nhellohello\r\na\r\nhellohello\r\n0\r\n\r\n", b"hello" * 4),
            (b"000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        ],
    )
    def test_content_is_decoded(self, data: bytes, content: bytes) -> None:
        assert dechunk(data + b"rest") == (content, [], b"rest")

    @pytest.mark.parametrize(
        "size",
        [
            *(
                b"0x5",
                b"+5",
                b"-5",
                b" 5",
                b"5 ",
                b"\t5",
                b"5\t",
                b"5 ;a",
                b"",
                b";a",
                b"g",
                b"5h",
                b"5.",
                b"5,5",
                b"5_0",
                b'"5"',
            ),
            *(
                b"\x005",
                b"5\x00",
                b"5\x0b",
                b"\xef\xbc\x95",
                b"\xb2",
                b"1" + b"0" * 15,
                b"f" * 16,
                b"0" * 15 + b"5",
                b"f" * 250,
            ),
        ],
    )
    def test_malformed_and_huge_sizes_are_rejected(self, size: bytes) -> None:
        for end in (b"\r\nhello\r\n0\r\n\r\n", b"\r\n\r\n"):
            with pytest.raises(BadMessage, match="chunk size line"):
                ChunkedBody().take(size + end)

    def test_a_large_chunk_may_arrive_slowly(self) -> None:
        body = ChunkedBody()
        assert body.take(b"f" * 15 + b"\r\nhello") == (b"hello", b"")
        assert not body.end()

    @pytest.mark.parametrize(
        "extension", [b";a", b";a=b", b'; a = "b;\\"\t\xff"', b";a;b=c ;d", b";0", b';a=""', b";" + b"a" * 200]
    )
    def test_extensions_are_dropped(self, extension: bytes) -> None:
        data = b"5%b\r\nhello\r\n0%b\r\n\r\n" % (extension, extension)
        assert dechunk(data) == (b"hello", [], b"")

    @pytest.mark.parametrize(
        "extension",
        [
            b";",
            b";;",
            b"; ",
            b";=b",
            b";a=",
            b";a=b=c",
            b";a b",
            b";a,b",
            b';a="b',
            b';a="b"c',
            b';"a"',
            b";\xff",
        ],
    )
    def test_extensions_are_names_with_tokens_or_quoted_strings(self, extension: bytes) -> None:
        """RFC 9112 section 7.1.1."""
        for size in (b"5", b"0"):
            with pytest.raises(BadMessage, match="chunk size line"):
                ChunkedBody().take(size + extension + b"\r\nhello\r\n0\r\n\r\n")

    @pytest.mark.parametrize("byte", [*set(range(0x20)) - {0x09}, 0x7F])
    def test_control_characters_in_extensions_are_rejected_even_quoted(self, byte: int) -> None:
        for extension in (b";a%cb", b';a="%c"', b";a%c", b";%c", b"%c"):
            for size in (b"5", b"0"):
                with pytest.raises(BadMessage, match="chunk size line"):
                    ChunkedBody().take(size + extension % byte + b"\r\nhello\r\n0\r\n\r\n")

    @pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\n\n", b"\r\n\n"])
    def test_a_size_line_ends_with_crlf_only(self, end: bytes) -> None:
        data = b"5%bhello\r\n0\r\n\r\n" % end
        with pytest.raises(BadMessage):
            ChunkedBody().take(data)

    @pytest.mark.parametrize(
        "end", [b"", b"\n", b"\r", b"x", b"\n\r", b"\rx", b"xx", b"\r\r\n", b" \r\n", b"\r\n\r\n", b"!\r\n"]
    )
    def test_content_ends_after_its_size_with_crlf_only(self, end: bytes) -> None:
        data = b"5\r\nhello%b0\r\n\r\n" % end
        for pieces in ([data], [data[index : index + 1] for index in range(len(data))]):
            with pytest.raises(BadMessage):
                dechunk(*pieces)

    def test_the_size_of_a_size_line_is_limited(self) -> None:
        line = b"5;" + b"a" * (MAX_CHUNK_LINE_BYTES - 4) + b"\r\n"
        assert len(line) == MAX_CHUNK_LINE_BYTES
        rest = b"hello\r\n0\r\n\r\n"
        assert dechunk(line + rest)[0] == dechunk(line[:-1], line[-1:] + rest)[0] == b"hello"
        for data in (b"5;a" + line[2:] + rest, b"5;a" + line[2:-1], b"0" * MAX_CHUNK_LINE_BYTES):
            with pytest.raises(TooLarge):
                ChunkedBody().take(data)

    def test_a_body_without_its_last_chunk_is_incomplete(self) -> None:
        whole = b"5;a\r\nhello\r\n0\r\nX-A: b\r\n\r\n"
        for cut in range(len(whole)):
            body = ChunkedBody()
            content, surplus = body.take(whole[:cut])
            assert b"hello".startswith(content)
            assert surplus == b""
            assert not body.done
            assert not body.end()


class TestTrailers:
    """RFC 9112 section 7.1.2."""

    def test_trailers_are_fields(self) -> None:
        assert dechunk(b"0\r\nX-Sum: 1 \r\nx-sum:\t2\r\nB:\r\n\r\nrest") == (
            b"",
            [(b"x-sum", b"1"), (b"x-sum", b"2"), (b"b", b"")],
            b"rest",
        )

    @pytest.mark.parametrize(
        "lines",
        [
            *(
                b" A: b",
                b"A: b\r\n c",
                b"A : b",
                b": b",
                b"A",
                b"A: b\nC: d",
                b"A: b\rC: d",
                b"A: \x00",
                b"A B: c",
                b"\nA: b",
            ),
            *(b"\r", b"\n", b"GET / HTTP/1.1\r\nHost: a", b"A: b\x7f", b"\tA: b"),
        ],
    )
    def test_malformed_trailers_are_rejected(self, lines: bytes) -> None:
        data = b"0\r\n%b\r\n\r\n" % lines
        for pieces in ([data], [data[index : index + 1] for index in range(len(data))]):
            with pytest.raises(BadMessage):
                dechunk(*pieces)

    @pytest.mark.parametrize(
        "line",
        [
            b"Content-Length: 38",
            b"Content-Length: x",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: x",
            b"Host: b",
        ],
    )
    def test_framing_fields_have_no_effect_in_trailers(self, line: bytes) -> None:
        head, content, surplus = parse_one(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b\r\n%b\r\n\r\n%b"
            % (line, line, SMUGGLED)
        )
        name, _, value = line.partition(b": ")
        assert head.body is not None
        assert head.body.trailers == [(name.lower(), value)] * 2
        assert head.fields == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
        assert head.by_name[b"host"] == b"a"
        assert (content, surplus) == (b"", SMUGGLED)

    def test_the_number_of_trailers_is_limited(self) -> None:
        assert len(dechunk(b"0\r\n" + b"A: b\r\n" * MAX_FIELDS + b"\r\n")[1]) == MAX_FIELDS
        with pytest.raises(TooLarge):
            dechunk(b"0\r\n" + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n")

    def test_the_size_of_trailers_is_limited(self) -> None:
        lines = b"A: " + b"b" * (MAX_TRAILER_BYTES - 3)
        assert dechunk(b"0\r\n" + lines + b"\r\n\r\nrest")[2] == b"rest"
        for end in (b"bbbb", b"b\r\n\r\n", b"b" * 100_000, b"\r\n" + lines + b"\r\n\r\n"):
            with pytest.raises(TooLarge):
                ChunkedBody().take(b"0\r\n" + lines + end)

    def test_trailers_at_their_limit_may_arrive_in_pieces(self) -> None:
        data = b"0\r\nA: " + b"b" * (MAX_TRAILER_BYTES - 3) + b"\r\n\r\n"
        for cut in (1, 2, 3):
            assert dechunk(data[:-cut], data[-cut:])[0] == b""
