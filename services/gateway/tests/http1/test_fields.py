"""RFC 9112 section 5 and RFC 9110 section 5: field lines."""

import time

import pytest
from harness.messages import request, response

from ostiary_gateway.http1.errors import BadMessage, TooLarge
from ostiary_gateway.http1.fields import MAX_FIELDS
from ostiary_gateway.http1.parser import parse_request


class TestFieldLines:
    """RFC 9112 section 5, RFC 9110 section 5."""

    def test_names_become_lower_case_and_keep_their_order(self) -> None:
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
    def test_whitespace_around_a_value_is_stripped(self, line: bytes, value: bytes) -> None:
        assert request(line).fields == [(b"a", value)]

    @pytest.mark.parametrize("name", [b"!#$%&'*+-.^_`|~", b"09", b"A_B", b"-"])
    def test_a_name_is_any_token(self, name: bytes) -> None:
        assert request(name + b": a").fields == [(name.lower(), b"a")]

    @pytest.mark.parametrize("byte", [*b'\x00\x01\t\n\x0b\x0c\r\x1f "(),/;<=>?@[\\]{}\x7f\x80\xa0\xad\xff'])
    def test_a_name_has_only_token_characters(self, byte: int) -> None:
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
    def test_folded_lines_are_rejected(self, lines: tuple[bytes, ...]) -> None:
        with pytest.raises(BadMessage, match="field line"):
            request(*lines)

    @pytest.mark.parametrize("line", [b"", b":", b": a", b"A", b"A b", b"A=b", b"A : b", b"A\t: b", b"A \t: b"])
    def test_malformed_lines_are_rejected(self, line: bytes) -> None:
        with pytest.raises(BadMessage, match="field line"):
            request(b"Host: a", line, b"B: c")

    def test_a_bare_line_feed_does_not_end_a_line(self) -> None:
        for head in (
            b"GET / HTTP/1.1\nA: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\nB: c\r\n\r\n",
            b"GET / HTTP/1.1\r\n\nA: b\r\n\r\n",
            b"\nGET / HTTP/1.1\r\n\r\n",
        ):
            with pytest.raises(BadMessage):
                parse_request(head)

    def test_a_head_may_have_no_fields(self) -> None:
        assert request().fields == []

    def test_the_number_of_fields_is_limited(self) -> None:
        lines = [b"A: b"] * MAX_FIELDS
        assert len(request(*lines).fields) == MAX_FIELDS
        with pytest.raises(TooLarge):
            request(*lines, b"A: b")

    def test_many_spaces_before_an_invalid_value_are_rejected_quickly(self) -> None:
        began = time.process_time()
        with pytest.raises(BadMessage):
            request(b"A:" + b" " * 8000 + b"\x00")
        assert time.process_time() - began < 0.5

    @pytest.mark.parametrize(
        "line", [b"A" * 32_000, b"A: " + b"b " * 16_000 + b"\x00", b"A:" * 16_000 + b"\r", b"\t" * 32_000]
    )
    def test_other_invalid_lines_are_rejected_quickly(self, line: bytes) -> None:
        began = time.process_time()
        with pytest.raises(BadMessage):
            request(line)
        assert time.process_time() - began < 0.5


class TestSingletons:
    """RFC 9110 section 5.3, RFC 9112 sections 3.2 and 6.3."""

    @pytest.mark.parametrize(
        "name", [b"Host", b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"Expect", b"Upgrade"]
    )
    def test_duplicates_are_rejected(self, name: bytes) -> None:
        for other in (name, name.upper(), name.lower()):
            with pytest.raises(BadMessage, match="duplicate"):
                request(name + b": 5", b"X: y", other + b": 5")

    @pytest.mark.parametrize("name", [b"Connection", b"Cookie", b"Accept", b"X-Any", b"Via", b"Trailer", b"TE"])
    def test_other_fields_may_repeat(self, name: bytes) -> None:
        assert len(request(name + b": a", name + b": b").fields) == 2


class TestConnectionOptions:
    """RFC 9110 section 7.6.1."""

    def test_several_fields_form_one_list(self) -> None:
        lines = (b"Connection: Keep-Alive,X-A", b"Via: b", b"Connection: \t x-b ,, X-C")
        expected = {b"keep-alive", b"x-a", b"x-b", b"x-c"}
        assert request(*lines).connection_options - {b""} == expected
        assert response(*lines).connection_options - {b""} == expected
        assert request().connection_options == frozenset()
