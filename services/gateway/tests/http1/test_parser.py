"""RFC 9112: messages are read in one way or not at all, however their bytes arrive."""

import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import h11
import pytest
from corpus import CORPUS, SMUGGLED, Decider, Entry, Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary_gateway.http1.body import (
    MAX_CHUNK_LINE_BYTES,
    MAX_TRAILER_BYTES,
    Body,
    ChunkedBody,
    CloseDelimitedBody,
    ContentLengthBody,
)
from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownCoding, UnknownVersion
from ostiary_gateway.http1.fields import MAX_FIELDS, Fields
from ostiary_gateway.http1.memo import MAX_ENTRIES, BoundedCache
from ostiary_gateway.http1.parser import MAX_HEAD_BYTES, Request, Response, head_end, parse_request, parse_response
from ostiary_gateway.http1.serializer import CONTINUE, chunk, last_chunk, status_line


def request(*lines: bytes, first: bytes = b"POST / HTTP/1.1") -> Request:
    """Read a request with these field lines."""
    return parse_request(b"\r\n".join([first, *lines]) + b"\r\n\r\n")


def response(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK", method: str = "GET") -> Response:
    """Read a response with these field lines."""
    return parse_response(b"\r\n".join([first, *lines]) + b"\r\n\r\n", method)


def read(data: bytes) -> tuple[Request, bytes, bytes]:
    """Read one whole request, as a connection does; return it, its content and what comes after it."""
    end = head_end(data)
    assert end >= 0
    head = parse_request(data[:end])
    if head.body is None:
        return head, b"", data[end:]
    content, surplus = head.body.take(data[end:])
    assert head.body.done
    return head, content, surplus


def named(entry: Entry) -> str:
    return entry.name if len(entry.name) < 60 else f"{entry.name[:60]}..."


class TestCorpus:
    """Requests that are known to be read in different ways."""

    @pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.HEAD], ids=named)
    def test_a_head_that_could_be_read_in_two_ways_is_refused(self, entry: Entry) -> None:
        assert entry.outcome is Outcome.REFUSED
        with pytest.raises(BadMessage):
            parse_request(entry.data[: head_end(entry.data)])

    @pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.BODY], ids=named)
    def test_a_body_that_could_be_read_in_two_ways_is_refused(self, entry: Entry) -> None:
        assert entry.outcome is Outcome.REFUSED
        end = head_end(entry.data)
        body = parse_request(entry.data[:end]).body
        assert body is not None
        with pytest.raises(BadMessage):
            body.take(entry.data[end:])

    @pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.GATE], ids=named)
    def test_what_is_left_to_the_gate_is_one_whole_request(self, entry: Entry) -> None:
        _, content, surplus = read(entry.data)
        assert surplus == b""
        if entry.outcome is Outcome.ONE_REQUEST:
            assert content == entry.content

    def test_entries_have_names_of_their_own(self) -> None:
        assert len({entry.name for entry in CORPUS}) == len(CORPUS)


class TestRequestLine:
    """RFC 9112 section 3."""

    def test_it_is_method_target_and_version(self) -> None:
        read_request = request(b"Host: a", first=b"GET /a/b?c=d HTTP/1.1")
        assert read_request.method == "GET"
        assert read_request.target == b"/a/b?c=d"
        assert read_request.is_http11
        assert read_request.fields == [(b"host", b"a")]
        assert read_request.body is None

    @pytest.mark.parametrize(
        "line",
        [
            *(b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET\t/\tHTTP/1.1"),
            *(
                b"GET\x0b/ HTTP/1.1",
                b"GET /\x0cHTTP/1.1",
                b"GET\xa0/ HTTP/1.1",
                b"GET / x HTTP/1.1",
                b"\r\nGET / HTTP/1.1",
            ),
            *(b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\n", b"GET HTTP/1.1", b"GET /", b"GET", b"", b"/ HTTP/1.1", b"\x00"),
        ],
    )
    def test_nothing_but_single_spaces_is_between_its_parts(self, line: bytes) -> None:
        with pytest.raises(BadMessage, match="request line"):
            request(b"Host: a", first=line)

    @pytest.mark.parametrize("method", ["get", "Get", "PURGE", "M-SEARCH", "!#$%&'*+-.^_`|~09", "A" * 8000])
    def test_a_method_is_any_token_and_stays_as_it_is(self, method: str) -> None:
        assert request(first=method.encode() + b" / HTTP/1.1").method == method

    @pytest.mark.parametrize("byte", [*b'\x00\x01\t\n\r\x1f"(),/:;<=>?@[\\]{}\x7f\x80\xa0\xff'])
    def test_a_method_is_nothing_but_a_token(self, byte: int) -> None:
        with pytest.raises(BadMessage, match="request line"):
            request(first=b"G%cT / HTTP/1.1" % byte)

    @pytest.mark.parametrize(
        "target", [b"/", b"*", b"http://a/b?c", b"a:443", b"/a//../b;c%2e%zz\\", b"/?a#b", b'/"<>^`{|}', b"?", b"a"]
    )
    def test_a_target_is_any_visible_ascii(self, target: bytes) -> None:
        assert request(first=b"GET " + target + b" HTTP/1.1").target == target

    @pytest.mark.parametrize("byte", [*range(0x21), *range(0x7F, 0x100)])
    def test_a_target_is_nothing_but_visible_ascii(self, byte: int) -> None:
        with pytest.raises(BadMessage):
            request(first=b"GET /a%cb HTTP/1.1" % byte)

    @pytest.mark.parametrize(
        ("version", "is_http11"), [(b"1.0", False), (b"1.1", True), (b"1.2", True), (b"1.9", True)]
    )
    def test_any_minor_version_is_the_highest_that_is_known(self, version: bytes, is_http11: bool) -> None:
        assert request(first=b"GET / HTTP/" + version).is_http11 is is_http11

    @pytest.mark.parametrize("version", [b"0.9", b"0.0", b"2.0", b"3.0", b"9.9", b"0.1"])
    def test_another_major_version_is_said_to_be_unknown(self, version: bytes) -> None:
        with pytest.raises(UnknownVersion):
            request(first=b"GET / HTTP/" + version)

    def test_the_preface_of_http_2_is_another_major_version(self) -> None:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        with pytest.raises(UnknownVersion):
            parse_request(preface[: head_end(preface)])

    @pytest.mark.parametrize(
        "version",
        [
            *(b"http/1.1", b"Http/1.1", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/11", b"HTTP/1.10", b"HTTP/01.1"),
            *(b"HTTP/1,1", b"HTTP/1.1x", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1 .1", b"HTTP\\1.1", b"HTTPS/1.1", b"1.1"),
            *(b"HTTP/\xb9.1", b"HTTP/a.b", b"HTTP/"),
        ],
    )
    def test_what_is_no_version_is_refused(self, version: bytes) -> None:
        with pytest.raises(BadMessage, match="request line"):
            request(first=b"GET / " + version)


class TestFieldLines:
    """RFC 9112 section 5, RFC 9110 section 5."""

    def test_names_are_in_lower_case_and_in_their_order(self) -> None:
        head = request(b"Host: a", b"X-B: 1", b"x-a: 2", b"X-b: 3")
        assert head.fields == [(b"host", b"a"), (b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]
        assert head.by_name == {b"host": b"a", b"x-b": b"3", b"x-a": b"2"}

    @pytest.mark.parametrize(
        ("line", "value"),
        [
            *(
                (b"A:b", b"b"),
                (b"A: b", b"b"),
                (b"A:\tb", b"b"),
                (b"A: \t b\t \t", b"b"),
                (b"A:", b""),
                (b"A: \t", b""),
            ),
            *((b"A: b  c\td", b"b  c\td"), (b"A: :", b":"), (b"A:: b", b": b"), (b"A: \xc3\xa4\xff", b"\xc3\xa4\xff")),
            *((b"A: \xa0b\xa0", b"\xa0b\xa0"), (b"A: B: c", b"B: c"), (b"A: " + b"b" * 20_000, b"b" * 20_000)),
        ],
    )
    def test_whitespace_around_a_value_is_not_of_it(self, line: bytes, value: bytes) -> None:
        assert request(line).fields == [(b"a", value)]

    @pytest.mark.parametrize("name", [b"!#$%&'*+-.^_`|~", b"09", b"A_B", b"-"])
    def test_a_name_is_any_token(self, name: bytes) -> None:
        assert request(name + b": a").fields == [(name.lower(), b"a")]

    @pytest.mark.parametrize("byte", [*b'\x00\x01\t\n\x0b\x0c\r\x1f "(),/;<=>?@[\\]{}\x7f\x80\xa0\xad\xff'])
    def test_a_name_is_nothing_but_a_token(self, byte: int) -> None:
        for name in (b"A%cB", b"A%c", b"%cA", b"%c"):
            with pytest.raises(BadMessage):
                request(b"Host: a", name % byte + b": b")

    @pytest.mark.parametrize("byte", [*set(range(0x20)) - {0x09}, 0x7F])
    def test_a_value_has_no_control_characters(self, byte: int) -> None:
        for value in (b"A: b%cc", b"A: b%c", b"A:%cb", b"A: %c b", b"A:%c"):
            with pytest.raises(BadMessage):
                request(value % byte)

    @pytest.mark.parametrize(
        "lines", [(b"A: b", b" c"), (b"A: b", b"\tC: d"), (b"A:", b" b"), (b"A: b", b" "), (b" A: b",)]
    )
    def test_a_folded_line_is_refused(self, lines: tuple[bytes, ...]) -> None:
        with pytest.raises(BadMessage, match="field line"):
            request(*lines)
        with pytest.raises(BadMessage, match="field line"):
            response(*lines)

    @pytest.mark.parametrize("line", [b"", b":", b": a", b"A", b"A b", b"A=b", b"A : b", b"A\t: b", b"A \t: b"])
    def test_what_is_no_field_is_refused(self, line: bytes) -> None:
        with pytest.raises(BadMessage, match="field line"):
            request(b"Host: a", line, b"B: c")

    def test_a_bare_line_feed_ends_no_line(self) -> None:
        for head in (
            b"GET / HTTP/1.1\nA: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\nB: c\r\n\r\n",
            b"GET / HTTP/1.1\r\n\nA: b\r\n\r\n",
            b"\nGET / HTTP/1.1\r\n\r\n",
        ):
            with pytest.raises(BadMessage):
                parse_request(head)

    def test_no_fields_are_fields_too(self) -> None:
        assert request().fields == []

    def test_there_are_so_many_fields_and_no_more(self) -> None:
        lines = [b"A: b"] * MAX_FIELDS
        assert len(request(*lines).fields) == MAX_FIELDS
        with pytest.raises(TooLarge):
            request(*lines, b"A: b")
        with pytest.raises(TooLarge):
            response(*lines, b"A: b")

    def test_many_spaces_before_a_bad_value_are_not_worth_a_long_look(self) -> None:
        began = time.process_time()
        with pytest.raises(BadMessage):
            request(b"A:" + b" " * 8000 + b"\x00")
        assert time.process_time() - began < 0.05

    @pytest.mark.parametrize(
        "line", [b"A" * 32_000, b"A: " + b"b " * 16_000 + b"\x00", b"A:" * 16_000 + b"\r", b"\t" * 32_000]
    )
    def test_other_bad_lines_are_refused_quickly(self, line: bytes) -> None:
        began = time.process_time()
        with pytest.raises(BadMessage):
            request(line)
        assert time.process_time() - began < 0.05


class TestHeadEnd:
    """RFC 9112 section 2.1."""

    def test_a_head_ends_after_its_empty_line(self) -> None:
        data = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest\r\n\r\n"
        assert head_end(data) == data.index(b"rest")
        assert head_end(bytearray(data)) == data.index(b"rest")

    @pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"\r\n\r", b"GET / HTTP/1.1\r\nA: b\r\n", b"a\r\n\rb"])
    def test_a_head_without_it_has_not_ended(self, data: bytes) -> None:
        assert head_end(data) == -1

    def test_it_is_found_wherever_the_search_went_on(self) -> None:
        data = b"GET / HTTP/1.1\r\n\r\n"
        for searched in range(len(data)):
            assert head_end(data, searched) == len(data)

    @pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\r\nA: b\n\nrest", b"\n\n"])
    def test_a_head_that_ends_in_bare_line_feeds_is_not_waited_for(self, data: bytes) -> None:
        for searched in range(data.index(b"\n\n") + 2):
            with pytest.raises(BadMessage, match="line ends"):
                head_end(data, searched)

    def test_a_head_has_so_many_bytes_and_no_more(self) -> None:
        line = b"GET / HTTP/1.1\r\nA: "
        head = line + b"a" * (MAX_HEAD_BYTES - len(line)) + b"\r\n\r\n"
        assert head_end(head + b"rest") == len(head)
        assert head_end(head[:MAX_HEAD_BYTES]) == -1
        for data in (head[:-4] + b"a\r\n\r\n", head[:-4] + b"aaaa", b"a" * (MAX_HEAD_BYTES + 10), head[:-4] * 2):
            with pytest.raises(TooLarge):
                head_end(data)

    def test_a_head_at_its_limit_may_come_in_pieces(self) -> None:
        line = b"GET / HTTP/1.1\r\nA: "
        head = line + b"a" * (MAX_HEAD_BYTES - len(line)) + b"\r\n\r\n"
        for cut in (1, 2, 3):
            assert head_end(head[:-cut]) == -1


class TestFieldsThatStandOnce:
    """RFC 9110 section 5.3, RFC 9112 sections 3.2 and 6.3."""

    @pytest.mark.parametrize(
        "name", [b"Host", b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"Expect", b"Upgrade"]
    )
    def test_they_do(self, name: bytes) -> None:
        for other in (name, name.upper(), name.lower()):
            with pytest.raises(BadMessage, match="several"):
                request(name + b": 5", b"X: y", other + b": 5")
            with pytest.raises(BadMessage, match="several"):
                response(name + b": 5", b"X: y", other + b": 5")

    @pytest.mark.parametrize("name", [b"Connection", b"Cookie", b"Accept", b"X-Any", b"Via", b"Trailer", b"TE"])
    def test_others_may_stand_again(self, name: bytes) -> None:
        assert len(request(name + b": a", name + b": b").fields) == 2


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
    def test_it_is_digits(self, value: bytes, length: int) -> None:
        for body in (request(b"Content-Length:" + value).body, response(b"Content-Length:" + value).body):
            assert isinstance(body, ContentLengthBody)
            assert body.left == length
            assert not body.done

    @pytest.mark.parametrize("value", LENGTHS)
    def test_and_nothing_else(self, value: bytes) -> None:
        for method in ("GET", "HEAD"):
            with pytest.raises(BadMessage, match="content length"):
                response(b"Content-Length: " + value, method=method)
        with pytest.raises(BadMessage, match="content length"):
            request(b"Content-Length: " + value)

    def test_a_body_of_nothing_is_done(self) -> None:
        body = request(b"Content-Length: 0").body
        assert body is not None
        assert body.done
        assert body.end()
        assert body.take(b"rest") == (b"", b"rest")

    def test_a_request_without_one_has_no_body(self) -> None:
        assert request().body is None
        assert request(first=b"POST / HTTP/1.0").body is None

    def test_a_body_is_so_long_and_no_longer(self) -> None:
        body = ContentLengthBody(5)
        assert body.take(b"") == (b"", b"")
        assert body.take(b"hel") == (b"hel", b"")
        assert (body.done, body.end()) == (False, False)
        assert body.take(b"lo, you") == (b"lo", b", you")
        assert (body.done, body.end()) == (True, True)
        assert body.trailers == []

    def test_a_body_that_comes_whole_leaves_nothing(self) -> None:
        body = ContentLengthBody(5)
        assert body.take(b"hello") == (b"hello", b"")
        assert body.done


CODINGS = [
    *(b"xchunked", b"chunkedx", b"chunked, identity", b"identity, chunked", b"identity", b"gzip, chunked", b"gzip"),
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
]


class TestTransferEncoding:
    """RFC 9112 sections 6.1 and 7."""

    @pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked \t"])
    def test_chunked_is_known_in_any_case(self, value: bytes) -> None:
        assert isinstance(request(b"Transfer-Encoding:" + value).body, ChunkedBody)
        assert isinstance(response(b"Transfer-Encoding:" + value).body, ChunkedBody)

    @pytest.mark.parametrize("value", CODINGS)
    def test_nothing_else_is(self, value: bytes) -> None:
        with pytest.raises(UnknownCoding):
            request(b"Transfer-Encoding: " + value)
        with pytest.raises(BadMessage, match="transfer coding"):
            response(b"Transfer-Encoding: " + value)

    @pytest.mark.parametrize("value", [b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"\x00chunked", b"chunked\x7f"])
    def test_control_characters_are_no_whitespace(self, value: bytes) -> None:
        with pytest.raises(BadMessage, match="field line"):
            request(b"Transfer-Encoding:" + value)

    @pytest.mark.parametrize("length", [b"0", b"5", b"x"])
    def test_a_request_has_one_way_to_end(self, length: bytes) -> None:
        lines = [b"Transfer-Encoding: chunked", b"Content-Length: " + length]
        for each in (lines, lines[::-1], [*lines, b"Connection: content-length"]):
            with pytest.raises(BadMessage, match="two ways"):
                request(*each)

    def test_http_1_0_knows_none(self) -> None:
        with pytest.raises(BadMessage, match="two ways"):
            request(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0")
        with pytest.raises(BadMessage, match="transfer coding"):
            response(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK")


class TestConnection:
    """RFC 9112 section 9.3, RFC 9110 section 7.6.1."""

    @pytest.mark.parametrize(
        ("version", "lines", "keep_alive"),
        [
            (b"1.1", (), True),
            (b"1.1", (b"Connection: close",), False),
            (b"1.1", (b"Connection: CLOSE",), False),
            (b"1.1", (b"Connection: keep-alive, close",), False),
            (b"1.1", (b"Connection: keep-alive", b"Connection: x ,\tClose\t, y"), False),
            (b"1.1", (b"Connection: closed",), True),
            (b"1.1", (b"Connection:",), True),
            (b"1.2", (), True),
            (b"1.0", (), False),
            (b"1.0", (b"Connection: keep-alive",), True),
            (b"1.0", (b"Connection: Keep-Alive",), True),
            (b"1.0", (b"Connection: keep-alive, close",), False),
            (b"1.0", (b"Connection: x",), False),
            (b"1.0", (b"Keep-Alive: timeout=5",), False),
        ],
    )
    def test_a_connection_stays_as_its_version_and_options_say(
        self,
        version: bytes,
        lines: tuple[bytes, ...],
        keep_alive: bool,
    ) -> None:
        assert request(*lines, first=b"GET / HTTP/" + version).keep_alive is keep_alive
        if version != b"1.2":
            head = response(b"Content-Length: 0", *lines, first=b"HTTP/" + version + b" 200 OK")
            assert head.keep_alive is keep_alive

    def test_options_of_several_fields_are_one_list(self) -> None:
        lines = (b"Connection: Keep-Alive,X-A", b"Via: b", b"Connection: \t x-b ,, X-C")
        expected = {b"keep-alive", b"x-a", b"x-b", b"x-c"}
        assert request(*lines).connection_options - {b""} == expected
        assert response(*lines).connection_options - {b""} == expected
        assert request().connection_options == frozenset()


class TestExpect:
    """RFC 9110 section 10.1.1."""

    @pytest.mark.parametrize("value", [b"100-continue", b"100-Continue", b" 100-CONTINUE\t"])
    def test_a_client_may_wait_to_be_asked(self, value: bytes) -> None:
        assert request(b"Expect:" + value).expects_continue

    @pytest.mark.parametrize("value", [b"", b"100", b"continue", b"200-ok", b"100-continue, x", b"100-continue;q=1"])
    def test_what_else_is_expected_is_not_known(self, value: bytes) -> None:
        assert not request(b"Expect: " + value).expects_continue

    def test_http_1_0_does_not_wait(self) -> None:
        assert not request(b"Expect: 100-continue", first=b"POST / HTTP/1.0").expects_continue
        assert not request().expects_continue

    def test_it_is_asked_with_a_response_of_its_own(self) -> None:
        assert head_end(CONTINUE) == len(CONTINUE)
        head = parse_response(CONTINUE, "POST")
        assert head.status == 100
        assert not head.is_final


class TestStatusLine:
    """RFC 9112 section 4."""

    @pytest.mark.parametrize(
        "line",
        [
            *(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 a\tb  c "),
            *(b"HTTP/1.1 200 \xc3\xa4\xff", b"HTTP/1.1 200  OK"),
        ],
    )
    def test_the_reason_may_be_anything_or_nothing(self, line: bytes) -> None:
        assert response(first=line).status == 200

    @pytest.mark.parametrize("status", [100, 103, 199, 200, 299, 404, 418, 599])
    def test_statuses_from_100_to_599_are_known(self, status: int) -> None:
        head = response(first=b"HTTP/1.1 %d X" % status)
        assert head.status == status
        assert head.is_final is (status >= 200)

    @pytest.mark.parametrize(
        "line",
        [
            *(
                b"HTTP/1.1 099 X",
                b"HTTP/1.1 000 X",
                b"HTTP/1.1 600 X",
                b"HTTP/1.1 999 X",
                b"HTTP/1.1 20 X",
                b"HTTP/1.1 2000 X",
            ),
            *(b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK"),
            *(
                b"HTTP/1.2 200 OK",
                b"HTTP/2.0 200 OK",
                b"HTTP/2 200",
                b"HTTP/0.9 200 OK",
                b"HTTP/1 200 OK",
                b"http/1.1 200 OK",
            ),
            *(
                b"ICY 200 OK",
                b"HTTP/1.1",
                b"HTTP/1.1 ",
                b"HTTP/1.1 OK",
                b"HTTP/1.1 +20 X",
                b"HTTP/1.1 0x1 X",
                b"",
                b"200 OK",
            ),
            *(
                b"HTTP/1.1 200 a\x00b",
                b"HTTP/1.1 200 a\rb",
                b"HTTP/1.1 200 a\x7f",
                b"HTTP/1.1 200 OK\r",
                b"\r\nHTTP/1.1 200 OK",
            ),
            *(b"HTTP/1.1 200 OK\nA: b", b"HTTP/1.1 \xb2\xb2\xb2 X", b"GET / HTTP/1.1"),
        ],
    )
    def test_what_is_none_is_refused(self, line: bytes) -> None:
        with pytest.raises(BadMessage):
            response(first=line)

    @pytest.mark.parametrize(
        ("status", "line"),
        [
            (200, b"HTTP/1.1 200 OK\r\n"),
            (404, b"HTTP/1.1 404 Not Found\r\n"),
            (299, b"HTTP/1.1 299 \r\n"),
            (599, b"HTTP/1.1 599 \r\n"),
        ],
    )
    def test_one_is_written_with_the_reason_that_is_known(self, status: int, line: bytes) -> None:
        assert status_line(status) == line

    def test_what_is_written_can_be_read(self) -> None:
        for status in range(100, 600):
            assert parse_response(status_line(status) + b"\r\n", "GET").status == status


class TestResponseBody:
    """RFC 9112 section 6.3, RFC 9110 section 6.4.1."""

    @pytest.mark.parametrize("lines", [(), (b"Content-Length: 5",), (b"Transfer-Encoding: chunked",)])
    def test_some_have_none_whatever_they_say(self, lines: tuple[bytes, ...]) -> None:
        heads = [response(*lines, first=b"HTTP/1.1 %d X" % status) for status in (100, 101, 103, 199, 204, 304)]
        for head in [*heads, response(*lines, method="HEAD")]:
            assert isinstance(head.body, ContentLengthBody)
            assert head.body.done
            assert head.body.take(b"rest") == (b"", b"rest")

    def test_the_method_is_head_in_these_letters_only(self) -> None:
        assert isinstance(response(method="head").body, CloseDelimitedBody)

    def test_one_of_a_length_is_of_that_length(self) -> None:
        head = response(b"Content-Length: 5")
        assert head.body.take(b"hello!") == (b"hello", b"!")
        assert head.keep_alive
        assert head.may_have_length

    def test_one_in_chunks_has_no_length(self) -> None:
        head = response(b"Transfer-Encoding: chunked")
        assert isinstance(head.body, ChunkedBody)
        assert head.keep_alive
        assert not head.may_have_length

    def test_chunks_go_before_a_length_and_the_connection_is_not_used_again(self) -> None:
        for method in ("GET", "HEAD"):
            lines = [b"Transfer-Encoding: chunked", b"Content-Length: 5"]
            head, other = response(*lines, method=method), response(*lines[::-1], method=method)
            assert isinstance(head.body, ChunkedBody if method == "GET" else ContentLengthBody)
            assert not head.keep_alive
            assert not other.keep_alive
            assert not head.may_have_length

    def test_a_bad_length_beside_chunks_is_refused(self) -> None:
        with pytest.raises(BadMessage, match="content length"):
            response(b"Transfer-Encoding: chunked", b"Content-Length: x")

    def test_one_of_unknown_length_goes_on_until_the_connection_ends(self) -> None:
        head = response(b"Connection: keep-alive")
        assert isinstance(head.body, CloseDelimitedBody)
        assert not head.keep_alive
        assert head.body.take(b"0\r\n\r\n") == (b"0\r\n\r\n", b"")
        assert (head.body.done, head.body.end(), head.body.done) == (False, True, True)
        assert head.body.trailers == []

    def test_a_length_has_no_meaning_with_204_and_one_with_304(self) -> None:
        assert not response(b"Content-Length: 5", first=b"HTTP/1.1 204 No Content").may_have_length
        assert response(b"Content-Length: 5", first=b"HTTP/1.1 304 Not Modified").may_have_length


def take(body: Body, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return content and surplus of a body that comes in these pieces."""
    content, surplus = b"", b""
    for piece in pieces:
        if body.done:
            surplus += piece
        else:
            got, surplus = body.take(piece)
            content += got
    return content, surplus


def dechunk(*pieces: bytes) -> tuple[bytes, Fields, bytes]:
    """Return content, trailers and surplus of a body in chunks that comes in these pieces."""
    body = ChunkedBody()
    content, surplus = take(body, pieces)
    assert body.done
    assert body.end()
    return content, body.trailers, surplus


class TestChunks:
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
    def test_content_is_what_is_in_them(self, data: bytes, content: bytes) -> None:
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
    def test_a_size_is_a_hexadecimal_number_that_is_not_huge(self, size: bytes) -> None:
        for end in (b"\r\nhello\r\n0\r\n\r\n", b"\r\n\r\n"):
            with pytest.raises(BadMessage, match="chunk line"):
                ChunkedBody().take(size + end)

    def test_a_large_size_is_waited_for(self) -> None:
        body = ChunkedBody()
        assert body.take(b"f" * 15 + b"\r\nhello") == (b"hello", b"")
        assert not body.end()

    @pytest.mark.parametrize(
        "extension", [b";", b";a", b";a=b", b'; a = "b;\\"\t\xff"', b";;;", b";0", b";" + b"a" * 200]
    )
    def test_extensions_are_dropped(self, extension: bytes) -> None:
        data = b"5%b\r\nhello\r\n0%b\r\n\r\n" % (extension, extension)
        assert dechunk(data) == (b"hello", [], b"")

    @pytest.mark.parametrize("byte", [*set(range(0x20)) - {0x09}, 0x7F])
    def test_extensions_have_no_control_characters_also_in_quotes(self, byte: int) -> None:
        for extension in (b";a%cb", b';a="%c"', b";a%c", b";%c", b"%c"):
            for size in (b"5", b"0"):
                with pytest.raises(BadMessage, match="chunk line"):
                    ChunkedBody().take(size + extension % byte + b"\r\nhello\r\n0\r\n\r\n")

    @pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\n\n", b"\r\n\n"])
    def test_a_line_of_a_size_ends_in_one_way(self, end: bytes) -> None:
        data = b"5%bhello\r\n0\r\n\r\n" % end
        with pytest.raises(BadMessage):
            ChunkedBody().take(data)

    @pytest.mark.parametrize(
        "end", [b"", b"\n", b"\r", b"x", b"\n\r", b"\rx", b"xx", b"\r\r\n", b" \r\n", b"\r\n\r\n", b"!\r\n"]
    )
    def test_content_ends_in_one_way_and_where_it_says(self, end: bytes) -> None:
        data = b"5\r\nhello%b0\r\n\r\n" % end
        for pieces in ([data], [data[index : index + 1] for index in range(len(data))]):
            with pytest.raises(BadMessage):
                dechunk(*pieces)

    def test_a_line_has_so_many_bytes_and_no_more(self) -> None:
        line = b"5;" + b"a" * (MAX_CHUNK_LINE_BYTES - 4) + b"\r\n"
        assert len(line) == MAX_CHUNK_LINE_BYTES
        rest = b"hello\r\n0\r\n\r\n"
        assert dechunk(line + rest)[0] == dechunk(line[:-1], line[-1:] + rest)[0] == b"hello"
        for data in (b"5;a" + line[2:] + rest, b"5;a" + line[2:-1], b"0" * MAX_CHUNK_LINE_BYTES):
            with pytest.raises(TooLarge):
                ChunkedBody().take(data)

    def test_a_body_without_its_last_chunk_is_not_whole(self) -> None:
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

    def test_they_are_fields(self) -> None:
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
    def test_what_is_no_field_is_refused(self, lines: bytes) -> None:
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
    def test_framing_fields_are_nothing_but_fields_there(self, line: bytes) -> None:
        head, content, surplus = read(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b\r\n%b\r\n\r\n%b"
            % (line, line, SMUGGLED)
        )
        name, _, value = line.partition(b": ")
        assert head.body is not None
        assert head.body.trailers == [(name.lower(), value)] * 2
        assert head.fields == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
        assert head.by_name[b"host"] == b"a"
        assert (content, surplus) == (b"", SMUGGLED)

    def test_there_are_so_many_and_no_more(self) -> None:
        assert len(dechunk(b"0\r\n" + b"A: b\r\n" * MAX_FIELDS + b"\r\n")[1]) == MAX_FIELDS
        with pytest.raises(TooLarge):
            dechunk(b"0\r\n" + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n")

    def test_they_have_so_many_bytes_and_no_more(self) -> None:
        lines = b"A: " + b"b" * (MAX_TRAILER_BYTES - 3)
        assert dechunk(b"0\r\n" + lines + b"\r\n\r\nrest")[2] == b"rest"
        for end in (b"bbbb", b"b\r\n\r\n", b"b" * 100_000, b"\r\n" + lines + b"\r\n\r\n"):
            with pytest.raises(TooLarge):
                ChunkedBody().take(b"0\r\n" + lines + end)

    def test_at_their_limit_they_may_come_in_pieces(self) -> None:
        data = b"0\r\nA: " + b"b" * (MAX_TRAILER_BYTES - 3) + b"\r\n\r\n"
        for cut in (1, 2, 3):
            assert dechunk(data[:-cut], data[-cut:])[0] == b""


class TestWritten:
    """Bodies in chunks, as they are written."""

    def test_chunks_are_plain(self) -> None:
        assert chunk(b"hello") == b"5\r\nhello\r\n"
        assert chunk(b"a" * 31) == b"1f\r\n" + b"a" * 31 + b"\r\n"
        assert last_chunk() == b"0\r\n\r\n"
        assert last_chunk(b"x-a: b\r\nx-c: \r\n") == b"0\r\nx-a: b\r\nx-c: \r\n\r\n"


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
        first = [seen(head_of([head])) for head in heads_of_lines]
        assert [seen(head_of([head])) for head in heads_of_lines] == first

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

    def test_it_does_not_grow_without_end(self) -> None:
        memo: BoundedCache[int, int] = BoundedCache(lambda number: number + 1, lambda number, _: number % 2 == 0)
        for number in range(4 * MAX_ENTRIES):
            assert memo[number] == number + 1
            assert len(memo) <= MAX_ENTRIES
        assert not any(number % 2 for number in memo)


# What holds for all messages, tried on many.

TCHARS = b"!#$%&'*+-.^_`|~09azAZ"
tokens = st.lists(st.sampled_from(TCHARS), min_size=1, max_size=6).map(bytes)
values = (
    st.lists(st.sampled_from([*b'\t \x21az,;="\\:\x7e\x80\xa0\xff0']), max_size=8)
    .map(bytes)
    .map(lambda value: value.strip(b"\t "))
)
trailers_of_any_kind = st.lists(st.tuples(tokens.map(bytes.lower), values), max_size=4)
contents = st.lists(
    st.binary(min_size=1, max_size=20) | st.sampled_from([b"0\r\n\r\n", b"\r\n", b"a" * 300]), max_size=5
)
extensions = st.sampled_from([b"", b"", b";", b";a=b", b';a="\\";0"', b"; \t\xff"])
CUTS = st.lists(st.integers(0, 400), max_size=8)

Outcomes = tuple[bytes, Fields, bytes] | str


def cut_up(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the pieces of `data` between these places."""
    places = sorted({0, len(data), *[cut % (len(data) + 1) for cut in cuts]})
    return [data[first:last] for first, last in pairwise(places)]


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes with some of them changed, left out or added."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        place = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 2))
        data[place : place + removed] = draw(
            st.sampled_from(
                [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b"\x0b", b":", b",", b";", b"0", b"5", b"a", b"\xa0"]
            )
        )
    return bytes(data)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    """Return a body in chunks, in one of its many valid forms."""
    parts = []
    for content in draw(contents):
        form = draw(st.sampled_from([b"%x", b"%X", b"00%x"]))
        parts.append(form % len(content) + draw(extensions) + b"\r\n" + content + b"\r\n")
    parts.append(draw(st.sampled_from([b"0", b"000"])) + draw(extensions) + b"\r\n")
    parts += [b"%b:%b\r\n" % field for field in draw(trailers_of_any_kind)]
    return b"".join([*parts, b"\r\n", draw(st.sampled_from([b"", b"rest", b"\r\n\r\n", SMUGGLED]))])


FIRST_LINES = [
    *(b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"GET / HTTP/1.0", b"POST * HTTP/1.2", b"GET /  HTTP/1.1"),
    *(b"GET / HTTP/0.9", b"CONNECT a:1 HTTP/1.1", b"put http://a/ HTTP/1.1", b"HEAD / HTTP/1.1"),
]
FIELD_LINES = [
    *(
        b"Content-Length: 5",
        b"content-length: 0005 ",
        b"Content-Length: 0",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
    ),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:\tChunked", b"Transfer-Encoding: gzip, chunked"),
    *(
        b"Transfer-Encoding : chunked",
        b" chunked",
        b"Transfer-Encoding:",
        b"Connection: close",
        b"Connection: Keep-Alive, x",
    ),
    *(b"Expect: 100-continue", b"Upgrade: h2c", b"Cookie: a=b", b"X-A: \xc3\xa4 \t b \t", b"X-A:", b"Host: b"),
]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Return the head of a request, mostly a valid one."""
    lines = [draw(st.sampled_from(FIRST_LINES))]
    if draw(st.integers(0, 7)):
        lines.append(b"Host: a")
    framing = st.sampled_from(FIELD_LINES)
    others = st.builds(lambda name, value: name + b":" + value, tokens, values)
    lines += draw(st.lists(framing | others, max_size=3))
    ends = st.sampled_from([b"\r\n"] * 15 + [b"\n"])
    return b"".join([line + draw(ends) for line in lines]) + b"\r\n"


TAILS = [
    b"",
    b"hello",
    b"hello, you",
    b"5\r\nhello\r\n0\r\n\r\nrest",
    b"0\r\n\r\n",
    b"5\r\nhel",
    b"0\r\nX-Sum: 1\r\n\r\n" + SMUGGLED,
]
tails = st.sampled_from(TAILS) | chunked_bodies()
whole_requests = mutated(st.builds(lambda head, tail: head + tail, heads(), tails))


def take_all(pieces: list[bytes]) -> Outcomes:
    """Return what becomes of a body in chunks that comes in these pieces."""
    body = ChunkedBody()
    try:
        content, surplus = take(body, pieces)
    except BadMessage:
        return "refused"
    return (content, body.trailers, surplus) if body.done else f"waits after {content!r}"


def head_of(pieces: list[bytes]) -> tuple[Request, bytes] | str:
    """Return what becomes of a head that comes in these pieces, and what follows it, read as a connection does."""
    data, searched = b"", 0
    try:
        for index, piece in enumerate(pieces):
            data += piece
            end = head_end(data, searched)
            searched = len(data)
            if end >= 0:
                return parse_request(data[:end]), data[end:] + b"".join(pieces[index + 1 :])
    except BadMessage:
        return "refused"
    return "waits"


def seen(outcome: tuple[Request, bytes] | str) -> object:
    """Return all that can be compared of a head."""
    if isinstance(outcome, str):
        return outcome
    head, rest = outcome
    length = head.body.left if isinstance(head.body, ContentLengthBody) else None
    return (
        *(head.method, head.target, head.is_http11, head.fields, head.by_name, type(head.body), length),
        *(head.keep_alive, head.connection_options, head.expects_continue, rest),
    )


@settings(max_examples=75)
@given(data=chunked_bodies(), cuts=CUTS)
def test_chunks_say_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = take_all([data])
    assert not isinstance(whole, str)
    assert take_all(cut_up(data, cuts)) == whole
    assert take_all([data[index : index + 1] for index in range(len(data))]) == whole


@settings(max_examples=75)
@given(data=mutated(chunked_bodies()), cuts=CUTS)
def test_also_bad_chunks_do(data: bytes, cuts: list[int]) -> None:
    assert take_all(cut_up(data, cuts)) == take_all([data])


@settings(max_examples=75)
@given(data=whole_requests, cuts=CUTS)
def test_a_head_says_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    whole = seen(head_of([data]))
    assert seen(head_of(cut_up(data, cuts))) == whole
    assert seen(head_of([data[index : index + 1] for index in range(len(data))])) == whole


@given(pieces=contents, trailers=trailers_of_any_kind, cuts=CUTS)
def test_what_is_written_in_chunks_is_read_again(pieces: list[bytes], trailers: Fields, cuts: list[int]) -> None:
    data = b"".join(
        [*[chunk(piece) for piece in pieces], last_chunk(b"".join([b"%b: %b\r\n" % field for field in trailers]))]
    )
    assert take_all(cut_up(data + b"rest", cuts)) == (b"".join(pieces), trailers, b"rest")


@given(length=st.integers(0, 40), data=st.binary(max_size=60), cuts=CUTS)
def test_a_body_of_a_length_says_the_same_however_it_is_cut(length: int, data: bytes, cuts: list[int]) -> None:
    body: Body = ContentLengthBody(length)
    assert take(body, cut_up(data, cuts)) == (data[:length], data[length:])
    assert body.done is body.end() is (len(data) >= length)


RESPONSES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.0 204 \r\nConnection: keep-alive, x\r\n\r\n"),
        *(b"HTTP/1.1 304\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ]
)


@settings(max_examples=100)
@given(data=st.binary(max_size=60) | whole_requests | mutated(RESPONSES), method=st.sampled_from(["GET", "HEAD"]))
def test_any_bytes_are_a_message_or_a_bad_message(data: bytes, method: str) -> None:
    # However wrong: nothing else is raised, and what is read has the types that it should.
    outcome = head_of([data])
    assert isinstance(outcome, str | tuple)
    for read_one in (lambda: parse_request(data), lambda: parse_response(data, method)):
        try:
            head = read_one()
        except BadMessage:
            continue
        assert len(head.fields) <= MAX_FIELDS
        assert all(name == name.lower() and value == value.strip(b"\t ") for name, value in head.fields)
        assert not any(set(value) & {0, 10, 13} for _, value in head.fields)


@settings(max_examples=100)
@given(data=st.binary(max_size=60) | mutated(chunked_bodies()))
def test_any_bytes_are_chunks_or_a_bad_message(data: bytes) -> None:
    assert take_all([data]) == take_all(cut_up(data, [3, 7]))


# Against h11, another reader.

#: Where we accept what h11 does not, and why that is good.
KNOWN_DIFFERENCES = {
    "Host": "a request without it is read, and refused by the gate, which asks for one in any version",
    "trailers": "h11 reads framing fields among them as if they were framing; here they are fields, and do not go on",
}


def by_h11(data: bytes) -> tuple[h11.Request, bytes, Fields | None, bytes]:
    """Return a request as h11 reads it: head, content, trailers if it is whole, and what comes after it."""
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
    """Return the same as we read it, or None if it is refused or its head does not end."""
    outcome = head_of([data])
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
    """Assert that h11 reads the same as we, if we accept it; return what became of it."""
    outcome = by_us(data)
    if outcome is None:
        return "refused"
    ours, content, trailers, surplus = outcome
    version = data.partition(b"\r\n")[0][-3:]
    if version == b"1.1" and b"host" not in ours.by_name:
        with pytest.raises(h11.RemoteProtocolError, match="Host"):
            by_h11(data)
        return "Host"
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
        return "waits"
    if {name for name, _ in trailers} & {b"content-length", b"transfer-encoding"}:
        return "trailers"
    assert (their_trailers, their_surplus) == (trailers, surplus)
    return "whole"


@settings(max_examples=150)
@given(data=whole_requests)
def test_what_is_accepted_another_reader_reads_in_the_same_way(data: bytes) -> None:
    assert_h11_agrees(data)


@pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.GATE], ids=named)
def test_also_of_what_is_known_to_be_read_in_different_ways(entry: Entry) -> None:
    became = assert_h11_agrees(entry.data)
    assert became == "whole" or became in KNOWN_DIFFERENCES


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
def test_where_another_reader_is_lenient_we_are_not(data: bytes) -> None:
    assert by_h11(data)[2] is not None
    outcome = by_us(data)
    assert outcome is None or outcome[2] is None
