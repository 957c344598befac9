"""RFC 9112 sections 2 to 4: the heads of messages."""

import pytest
from corpus import CORPUS, Decider, Entry, Outcome, short_name
from harness.messages import parse_one, request, response

from ostiary_gateway.http1.errors import BadMessage, TooLarge, UnknownVersion
from ostiary_gateway.http1.parser import DEFAULT_HEAD_BYTES, head_end, parse_request


class TestCorpus:
    """Requests that servers are known to parse differently."""

    @pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.HEAD], ids=short_name)
    def test_ambiguous_heads_are_rejected(self, entry: Entry) -> None:
        assert entry.outcome is Outcome.REJECTED
        with pytest.raises(BadMessage):
            parse_request(entry.data[: head_end(entry.data)])

    @pytest.mark.parametrize("entry", [each for each in CORPUS if each.decider is Decider.ADMISSION], ids=short_name)
    def test_requests_left_to_admission_parse_as_one_complete_request(self, entry: Entry) -> None:
        _, content, surplus = parse_one(entry.data)
        assert surplus == b""
        if entry.outcome is Outcome.ONE_REQUEST:
            assert content == entry.content

    def test_entry_names_are_unique(self) -> None:
        assert len({entry.name for entry in CORPUS}) == len(CORPUS)


class TestRequestLine:
    """RFC 9112 section 3."""

    def test_a_request_line_is_a_method_a_target_and_a_version(self) -> None:
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
    def test_parts_are_separated_by_single_spaces(self, line: bytes) -> None:
        with pytest.raises(BadMessage, match="request line"):
            request(b"Host: a", first=line)

    @pytest.mark.parametrize("method", ["get", "Get", "PURGE", "M-SEARCH", "!#$%&'*+-.^_`|~09", "A" * 8000])
    def test_a_method_is_any_token_and_case_sensitive(self, method: str) -> None:
        assert request(first=method.encode() + b" / HTTP/1.1").method == method

    @pytest.mark.parametrize("byte", [*b'\x00\x01\t\n\r\x1f"(),/:;<=>?@[\\]{}\x7f\x80\xa0\xff'])
    def test_a_method_has_only_token_characters(self, byte: int) -> None:
        with pytest.raises(BadMessage, match="request line"):
            request(first=b"G%cT / HTTP/1.1" % byte)

    @pytest.mark.parametrize(
        "target", [b"/", b"*", b"http://a/b?c", b"a:443", b"/a//../b;c%2e%zz\\", b"/?a#b", b'/"<>^`{|}', b"?", b"a"]
    )
    def test_a_target_may_have_any_visible_ascii(self, target: bytes) -> None:
        assert request(first=b"GET " + target + b" HTTP/1.1").target == target

    @pytest.mark.parametrize("byte", [0x80, 0xA0, 0xC3, 0xFF])
    def test_a_target_may_have_bytes_beyond_ascii(self, byte: int) -> None:
        assert request(first=b"GET /a%cb HTTP/1.1" % byte).target == b"/a%cb" % byte

    @pytest.mark.parametrize("byte", [*range(0x21), 0x7F])
    def test_a_target_has_no_spaces_and_control_characters(self, byte: int) -> None:
        with pytest.raises(BadMessage):
            request(first=b"GET /a%cb HTTP/1.1" % byte)

    @pytest.mark.parametrize(
        ("version", "is_http11"), [(b"1.0", False), (b"1.1", True), (b"1.2", True), (b"1.9", True)]
    )
    def test_higher_minor_versions_count_as_1_1(self, version: bytes, is_http11: bool) -> None:
        assert request(first=b"GET / HTTP/" + version).is_http11 is is_http11

    @pytest.mark.parametrize("version", [b"0.9", b"0.0", b"2.0", b"3.0", b"9.9", b"0.1"])
    def test_other_major_versions_are_unknown(self, version: bytes) -> None:
        with pytest.raises(UnknownVersion):
            request(first=b"GET / HTTP/" + version)

    def test_the_http_2_preface_is_of_an_unknown_version(self) -> None:
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
    def test_malformed_versions_are_rejected(self, version: bytes) -> None:
        with pytest.raises(BadMessage, match="request line"):
            request(first=b"GET / " + version)


class TestStatusLine:
    """RFC 9112 section 4."""

    @pytest.mark.parametrize(
        "line",
        [
            *(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 a\tb  c "),
            *(b"HTTP/1.1 200 \xc3\xa4\xff", b"HTTP/1.1 200  OK"),
        ],
    )
    def test_the_reason_phrase_may_be_anything_or_missing(self, line: bytes) -> None:
        assert response(first=line).status == 200

    @pytest.mark.parametrize("status", [100, 103, 199, 200, 299, 404, 418, 599])
    def test_statuses_from_100_to_599_are_accepted(self, status: int) -> None:
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
    def test_malformed_status_lines_are_rejected(self, line: bytes) -> None:
        with pytest.raises(BadMessage):
            response(first=line)


class TestHeadEnd:
    """RFC 9112 section 2.1."""

    def test_a_head_ends_after_its_empty_line(self) -> None:
        data = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest\r\n\r\n"
        assert head_end(data) == data.index(b"rest")
        assert head_end(bytearray(data)) == data.index(b"rest")

    @pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"\r\n\r", b"GET / HTTP/1.1\r\nA: b\r\n", b"a\r\n\rb"])
    def test_a_head_without_an_empty_line_is_incomplete(self, data: bytes) -> None:
        assert head_end(data) == -1

    def test_the_end_is_found_wherever_the_search_resumes(self) -> None:
        data = b"GET / HTTP/1.1\r\n\r\n"
        for searched in range(len(data)):
            assert head_end(data, searched) == len(data)

    @pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\r\nA: b\n\nrest", b"\n\n"])
    def test_a_head_that_ends_in_bare_line_feeds_is_rejected_at_once(self, data: bytes) -> None:
        for searched in range(data.index(b"\n\n") + 2):
            with pytest.raises(BadMessage, match="lines end"):
                head_end(data, searched)

    def test_the_size_of_a_head_is_limited(self) -> None:
        line = b"GET / HTTP/1.1\r\nA: "
        head = line + b"a" * (DEFAULT_HEAD_BYTES - len(line)) + b"\r\n\r\n"
        assert head_end(head + b"rest") == len(head)
        assert head_end(head[:DEFAULT_HEAD_BYTES]) == -1
        for data in (head[:-4] + b"a\r\n\r\n", head[:-4] + b"aaaa", b"a" * (DEFAULT_HEAD_BYTES + 10), head[:-4] * 2):
            with pytest.raises(TooLarge):
                head_end(data)

    def test_a_head_at_its_limit_may_arrive_in_pieces(self) -> None:
        line = b"GET / HTTP/1.1\r\nA: "
        head = line + b"a" * (DEFAULT_HEAD_BYTES - len(line)) + b"\r\n\r\n"
        for cut in (1, 2, 3):
            assert head_end(head[:-cut]) == -1


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
    def test_persistence_depends_on_version_and_options(
        self,
        version: bytes,
        lines: tuple[bytes, ...],
        keep_alive: bool,
    ) -> None:
        assert request(*lines, first=b"GET / HTTP/" + version).keep_alive is keep_alive
        if version != b"1.2":
            head = response(b"Content-Length: 0", *lines, first=b"HTTP/" + version + b" 200 OK")
            assert head.keep_alive is keep_alive


class TestExpect:
    """RFC 9110 section 10.1.1."""

    @pytest.mark.parametrize("value", [b"100-continue", b"100-Continue", b" 100-CONTINUE\t"])
    def test_100_continue_is_recognized_in_any_case(self, value: bytes) -> None:
        assert request(b"Expect:" + value).expects_continue

    @pytest.mark.parametrize("value", [b"", b"100", b"continue", b"200-ok", b"100-continue, x", b"100-continue;q=1"])
    def test_other_expectations_are_not_100_continue(self, value: bytes) -> None:
        assert not request(b"Expect: " + value).expects_continue

    def test_http_1_0_clients_expect_nothing(self) -> None:
        assert not request(b"Expect: 100-continue", first=b"POST / HTTP/1.0").expects_continue
        assert not request().expects_continue
