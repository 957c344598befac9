"""Canonical paths (RFC 3986 sections 3.3 and 6.2.2): one spelling for each meaning, and no doubtful meanings."""

import re
import sys
import tracemalloc
from unicodedata import category
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ostiary_gateway.routing.paths import (
    AmbiguousPath,
    CanonicalPath,
    EncodedCharacter,
    InvalidPath,
    PathTooLong,
    canonicalise,
    fold,
    plain_text,
    readings,
)


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        (b"/", ("",)),
        (b"/a", ("a",)),
        (b"/a/", ("a", "")),
        (b"/profiles/me", ("profiles", "me")),
        (b"/.well-known/jwks.json", (".well-known", "jwks.json")),
        (b"/a%20b/%C3%A9", ("a%20b", "%C3%A9")),
        (b"/a:b@c!$&'()*+,=~-._", ("a:b@c!$&'()*+,=~-._",)),
        (b"/.a/..b/a.b/c..d", (".a", "..b", "a.b", "c..d")),
        (b"/v1./a../%20b%20", ("v1.", "a..", "%20b%20")),
        (b"/J.%20R.%20R.%20Tolkien/%E4%BD%95%EF%BC%9F", ("J.%20R.%20R.%20Tolkien", "%E4%BD%95%EF%BC%9F")),
        # A family and a Persian word, whose parts are joined and kept apart by characters that cannot be seen.
        (b"/%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7", ("%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7",)),
        (b"/%D9%85%DB%8C%E2%80%8C%D8%AE", ("%D9%85%DB%8C%E2%80%8C%D8%AE",)),
        (b"/%E2%9D%A4%EF%B8%8F", ("%E2%9D%A4%EF%B8%8F",)),
        (b"/caf%C3%A9/cafe%CC%81", ("caf%C3%A9", "cafe%CC%81")),
        (b"/" + b"a" * 8191, ("a" * 8191,)),
    ],
)
def test_a_canonical_path_stays_as_it_is(path: bytes, segments: tuple[str, ...]) -> None:
    assert canonicalise(path) == CanonicalPath(path, segments, frozenset())


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        # Escapes of unreserved characters, and lower-case digits.
        (b"/%61dmin", b"/admin"),
        (b"/adm%69n/%7Eada/a%2db%2E%5f", b"/admin/~ada/a-b._"),
        (b"/a%c3%a9/%c3%A9", b"/a%C3%A9/%C3%A9"),
        (b"/a%2c%3a%40", b"/a%2C%3A%40"),
        # What browsers, fetch, axios and curl send as it is.
        (b"/a[0]|b^{c}", b"/a%5B0%5D%7Cb%5E%7Bc%7D"),
        (b'/"a"/<b>/`c`', b"/%22a%22/%3Cb%3E/%60c%60"),
        ("/café/日本".encode(), b"/caf%C3%A9/%E6%97%A5%E6%9C%AC"),
    ],
)
def test_spellings_of_one_path_are_one_path(path: bytes, canonical: bytes) -> None:
    assert canonicalise(path) == canonicalise(canonical)
    assert canonicalise(path).raw == canonical


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        (b"/users/%40me", ("users", "@me")),
        (b"/42%3Acancel", ("42:cancel",)),
        (b"/Orders%285%29", ("Orders(5)",)),
        (b"/a%2Bb%3D%26%2C%21%24%27%2A", ("a+b=&,!$'*",)),
    ],
)
def test_escapes_of_reserved_characters_are_matched_as_the_characters_but_sent(
    path: bytes, segments: tuple[str, ...]
) -> None:
    assert canonicalise(path) == CanonicalPath(path, segments, frozenset())


@pytest.mark.parametrize(
    "path",
    [
        *(b"", b"a", b"*", b"a/b", b"http://host/a"),
        *(b"/pub/../admin", b"/pub/./admin", b"/..", b"/.", b"/a/..", b"/..."),
        *(b"/%2e%2e/admin", b"/%2E%2E/admin", b"/.%2e/admin", b"/%2e/admin"),
        *(b"/a%00", b"/a%0A", b"/a%0D%0A", b"/a%7F", b"/a%1F", b"/a%09"),
        *(b"/a#b", b"/a?b", b"/a%", b"/a%2", b"/a%GG", b"/a%u002e", b"/a b", b"/a\tb", b"/a\x00"),
        *(b"/b/%C0%AE%C0%AE/admin", b"/b/%FF", b"/b/\xff", b"/b/..%20/x", b"/b/%20../x", b"/b/%20.%20/x"),
        # Nothing but what some servers forget, at the end of a name or anywhere.
        *(b"/%20", b"/%E2%80%8B", b"/%C2%A0/x", b"/%E3%80%80"),
        # Dots of other widths, or with something between them that cannot be seen.
        *(b"/b/%EF%BC%8E%EF%BC%8E/root", b"/b/%E2%80%A5/root", b"/b/.%E2%80%8B./root", b"/b/%E2%80%8B../root"),
        *(b"/b/.%EF%B8%8F./root", b"/b/..%E3%85%A4/root", b"/b/%CD%8F../root"),
        *(b"/b/..%20./root", b"/b/.%C2%A0./root", b"/b/%EF%BB%BF../root", b"/b/%EF%B9%92%EF%B9%92/root"),
    ],
)
def test_a_path_without_one_meaning_is_rejected(path: bytes) -> None:
    with pytest.raises(AmbiguousPath):
        canonicalise(path)


def test_a_path_that_is_too_long_is_rejected() -> None:
    for path in (b"/" + b"a" * 8192, b"/" + b"%61" * 8192, b"/" + "é".encode() * 2000):
        with pytest.raises(PathTooLong, match="8192 bytes"):
            canonicalise(path)


@pytest.mark.parametrize(
    ("path", "specials", "canonical"),
    [
        (b"/group%2fname", "/", b"/group%2Fname"),
        (b"/a%5Cb", "\\", b"/a%5Cb"),
        (b"/a\\b", "\\", b"/a%5Cb"),
        (b"/a%23b%3Fc", "#?", b"/a%23b%3Fc"),
        (b"/100%25", "%", b"/100%25"),
        (b"/a;v=1/b%3bc", ";", b"/a;v=1/b%3Bc"),
        (b"/%252e%252E", "%", b"/%252e%252E"),
        # Forms of the separators, with which some services replace them.
        (b"/b%EF%BC%8Fc", "/", b"/b%EF%BC%8Fc"),
        (b"/b%EF%BC%BC%EF%B9%A8", "\\", b"/b%EF%BC%BC%EF%B9%A8"),
        (b"/%E2%84%80", "/", b"/%E2%84%80"),
    ],
)
def test_characters_with_two_meanings_are_named(path: bytes, specials: str, canonical: bytes) -> None:
    assert canonicalise(path).specials == set(specials)
    assert canonicalise(path).raw == canonical


@pytest.mark.parametrize("path", [b"//admin", b"/a//b", b"//", b"/a//"])
def test_empty_segments_are_special(path: bytes) -> None:
    assert canonicalise(path).specials == {"//"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"a/b", "The path does not start with '/'."),
        (b"/" + b"a" * 8192, "The path is too long: send at most 8192 bytes."),
        (b"/a\x00", "The path has the character 0x00: send a path without it."),
        (b"/a\x7f", "The path has the character 0x7F: send a path without it."),
        (b"/a b", "The path has a space: send it as '%20'."),
        (b"/a%zz", "The path has the invalid escape '%zz': send '%' and two hexadecimal digits."),
        (b"/a%", "The path has the invalid escape '%': send '%' and two hexadecimal digits."),
        (b"/a%00", "The path has the escape '%00', a control character: send a path without it."),
        (b"/b/%FF", "The path is not valid UTF-8 when decoded: send percent-encoded UTF-8."),
    ],
)
def test_a_rejection_says_what_is_wrong_and_what_to_send(path: bytes, reason: str) -> None:
    with pytest.raises(InvalidPath) as caught:
        canonicalise(path)
    assert str(caught.value) == reason


def test_the_rejection_of_a_dot_segment_says_which_it_is() -> None:
    with pytest.raises(AmbiguousPath, match=r"Segment 2 of the path is a dot segment.*RFC 3986 section 5\.2\.4"):
        canonicalise(b"/pub/../admin")


def test_the_rejection_of_a_special_character_names_it_and_the_option() -> None:
    error = EncodedCharacter("/")
    assert "'/'" in str(error)
    assert "allows_encoded" in str(error)
    assert "empty segment" in str(EncodedCharacter("//"))


# What any path is, if it is accepted.

_PIECES = st.sampled_from(
    [
        *(b"a", b"b", b"..", b".", b"/", b"//", b"%2F", b"%2f", b"%5C", b"%25", b"%252F", b"%23", b"?", b";", b"%20"),
        *(b"%61", b"%40", b"@", b"\xc3\xa9", b"%C3%A9", b"%EF%BC%8F", b"%E2%80%8B", b"[", b'"', b"%00", b"%zz", b"+"),
    ]
)
_PATHS = (st.lists(_PIECES, max_size=8).map(b"".join) | st.binary(max_size=20)).map(lambda tail: b"/" + tail)


def accepted(path: bytes) -> CanonicalPath | None:
    try:
        return canonicalise(path)
    except InvalidPath:
        return None


@given(_PATHS)
@example(b"/%25%32%65")
def test_the_canonical_form_is_its_own(path: bytes) -> None:
    if (canonical := accepted(path)) is not None:
        assert canonicalise(canonical.raw) == canonical
        assert re.fullmatch(rb"[\x21-\x7e]+", canonical.raw)


@given(_PATHS)
def test_the_canonical_form_means_the_same(path: bytes) -> None:
    if (canonical := accepted(path)) is not None:
        raw = path.decode("latin-1")
        assert unquote(canonical.raw.decode(), "latin-1") == unquote(raw, "latin-1")


@given(_PATHS)
def test_decoding_does_not_change_the_structure_of_a_path_without_special_characters(path: bytes) -> None:
    canonical = accepted(path)
    if canonical is None or canonical.specials:
        return
    decoded = unquote(canonical.raw.decode(), errors="strict")
    # Decoding adds no separator and makes no dot segment, and doing it twice changes nothing more.
    assert decoded.count("/") == canonical.raw.count(b"/")
    assert not {".", ".."} & set(decoded.split("/"))
    assert unquote(decoded, errors="strict") == decoded
    assert not set("\\?#;%") & set(decoded)


# What services may take paths for.


@pytest.mark.parametrize(
    ("segment", "folded"),
    [
        ("a", "a"),
        ("%EF%BD%92oot", "root"),
        ("ro%E2%80%8Bot", "root"),
        ("root.", "root"),
        ("root.%20.", "root"),
        ("%20root%C2%A0", "root"),
        ("a.b", "a.b"),
        ("Root", "Root"),
        ("50%25", "50%25"),
    ],
)
def test_folding_a_segment(segment: str, folded: str) -> None:
    assert fold(segment, ignores_case=False) == folded
    assert fold(segment, ignores_case=True) == folded.lower()


@pytest.mark.parametrize(
    ("path", "others"),
    [
        (b"/group%2Fname/x", {"/group/name/x"}),
        (b"/a%5Cb", {"/a\\b", "/a/b"}),
        (b"/a%23b/c", {"/a#b/c", "/a"}),
        (b"/a%3Fb", {"/a?b", "/a"}),
        (b"/a;v=1/b;w", {"/a/b", "/a;v=1/b"}),
        (b"/100%25", {"/100%"}),
        (b"/a%252Fb", {"/a%2Fb", "/a/b"}),
        (b"/%2561dmin", {"/%61dmin", "/admin"}),
        (b"/a//b", {"/a/b"}),
        (b"/b%EF%BC%8Fc", {"/b／c", "/b/c"}),  # noqa: RUF001 - a fullwidth slash
    ],
)
def test_readings_of_a_path_with_special_characters(path: bytes, others: set[str]) -> None:
    expected = {path.decode(), *others}
    assert readings(path) == {tuple(each[1:].split("/")) for each in expected}


@pytest.mark.parametrize(
    "path",
    [
        *(b"/pub/..%2Fadmin", b"/pub%2F..%2Fadmin", b"/pub/%2e%2e%2fadmin", b"/pub/..%5Cadmin", b"/pub/..;/admin"),
        *(b"/pub/..;x=1/admin", b"/pub/%252e%252e/admin", b"/pub/..%252fadmin", b"/pub/..%23", b"/pub/.%3Fx"),
        *(b"/pub/..%EF%BC%8Fadmin", b"/pub/%252500", b"/pub/%2500", b"/pub/%250d%250a", b"/pub/..%25252fadmin"),
        b"/pub/%" + b"25" * 100,
    ],
)
def test_a_path_with_a_reading_without_meaning_is_rejected(path: bytes) -> None:
    raw = canonicalise(path).raw
    with pytest.raises(AmbiguousPath):
        readings(raw)


def test_all_invisible_characters_are_ignored() -> None:
    invisible = [chr(code) for code in range(sys.maxunicode + 1) if category(chr(code)) == "Cf"]
    assert len(invisible) > 100
    assert plain_text("a" + "".join(invisible) + "b") == "ab"


@pytest.mark.parametrize("segment", ["ADM\u0130N", "adm\u0131n", "AdMi\u0307N", "ADM%C4%B0N"])
def test_the_letters_i_of_turkish_are_the_same_if_case_is_ignored(segment: str) -> None:
    assert fold(segment, ignores_case=True) == "admin"
    assert fold(segment, ignores_case=False) != "admin"


def test_a_long_path_with_many_readings_is_rejected_as_it_takes_long() -> None:
    short = b"/%5C%3B;%E2%80%8Ba%2F"
    assert len(readings(short)) > 10
    with pytest.raises(AmbiguousPath, match="in too many ways"):
        readings(short + b"/b;c" * 900)


def test_a_long_path_with_few_readings_is_read() -> None:
    for path in (b"/a%2F" + b"b" * 4000, b"/proxy/https://a/" + b"b/" * 1500 + b"%2F"):
        assert len(readings(path)) > 1


def test_many_long_paths_take_little_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(300):
            assert readings(canonicalise(b"/%d;x" % number + b"/ab" * 1340).raw)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 30 * 1024 * 1024
