"""Paths (RFC 3986): only unambiguous ones are accepted, and they are forwarded unchanged."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_gateway.routing.paths import AmbiguousPath, PathTemplate, parse_template, split


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
        (b"/J.%20R.%20R.%20Tolkien/%E4%BD%95%EF%BC%9F", ("J.%20R.%20R.%20Tolkien", "%E4%BD%95%EF%BC%9F")),
        # A family and a Persian word, whose parts are joined and kept apart by characters that cannot be seen.
        (b"/%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7", ("%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7",)),
        (b"/%D9%85%DB%8C%E2%80%8C%D8%AE", ("%D9%85%DB%8C%E2%80%8C%D8%AE",)),
        (b"/%E2%9D%A4%EF%B8%8F", ("%E2%9D%A4%EF%B8%8F",)),
        (b"/caf%C3%A9/cafe%CC%81", ("caf%C3%A9", "cafe%CC%81")),
        (b"/" + b"a" * 4095, ("a" * 4095,)),
    ],
)
def test_a_canonical_path_is_split_unchanged(path: bytes, segments: tuple[str, ...]) -> None:
    assert split(path) == segments


@pytest.mark.parametrize(
    "path",
    [
        *(b"", b"a", b"*", b"a/b", b"http://host/a"),
        *(b"/pub/../admin", b"/pub/./admin", b"/..", b"/.", b"/a/..", b"/pub/..;/admin"),
        *(b"/%2e%2e/admin", b"/%2E%2E/admin", b"/.%2e/admin", b"/%2e/admin"),
        *(b"//admin", b"/a//b", b"//", b"/pub//../admin"),
        *(b"/pub%2fadmin", b"/pub%2Fadmin", b"/pub%5cadmin", b"/pub%5Cadmin", b"/pub\\admin"),
        *(b"/pub;x=1/admin", b"/a;", b"/a%3Bb", b"/a%00", b"/a%0A", b"/a%0D%0A", b"/a%7F", b"/a%1F"),
        *(b"/a%23b", b"/a%3Fb", b"/a#b", b"/a?b"),
        *(b"/%252e%252e/admin", b"/a%25", b"/%61dmin", b"/adm%69n", b"/a%2Db", b"/a%7Eb"),
        *(b"/a%c3%a9", b"/a%", b"/a%2", b"/a%GG", b"/a b", b"/a\tb", b"/a\x00", b"/\xc3\xa9", b'/a"b', b"/a<b>"),
        *(b"/b/%C0%AE%C0%AE/admin", b"/b/%FF", b"/b/..%20/x", b"/b/%20../x", b"/b/%20.%20/x"),
        # What some servers forget at the end of a name, or at its beginning.
        *(b"/root./x", b"/...", b"/root..", b"/root%20/x", b"/%20root", b"/root%C2%A0/x", b"/%E3%80%80root"),
        *(b"/%20", b"/%E2%80%8B", b"/root%20%E2%80%8B", b"/root.%20"),
        # Dots and separators of other widths, or with something between them that cannot be seen.
        *(b"/b/%EF%BC%8E%EF%BC%8E/root", b"/b/%E2%80%A5/root", b"/b/.%E2%80%8B./root", b"/b/%E2%80%8B../root"),
        *(b"/b/.%EF%B8%8F./root", b"/b/..%E3%85%A4/root", b"/b/%CD%8F../root"),
        *(b"/b/..%20./root", b"/b/.%C2%A0./root", b"/b/%EF%BB%BF../root", b"/b/%EF%B9%92%EF%B9%92/root"),
        *(b"/b%EF%BC%8Froot", b"/b%EF%BC%BCroot", b"/b%EF%B9%A8root", b"/b/..%EF%BC%8Froot", b"/b/%E2%84%80"),
        b"/" + b"a" * 5000,
    ],
)
def test_an_ambiguous_path_is_rejected(path: bytes) -> None:
    with pytest.raises(AmbiguousPath):
        split(path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"a/b", "The path does not start with '/'."),
        (b"/" + b"a" * 4096, "The path is too long: send at most 4096 bytes."),
        (b"/pub;x=1/admin", "The path has the character ';': send a path without it."),
        (b"/pub\\admin", "The path has the character '\\': send a path without it."),
        (b"/a\x00", "The path has the character 0x00: send a path without it."),
        (b"/a\x7f", "The path has the character 0x7F: send a path without it."),
        (b"/a<b>", "The path has the character '<': send it as '%3C'."),
        (b"/\xc3\xa9", "The path has the byte 0xC3: send characters outside of ASCII as percent-encoded UTF-8."),
        (b"/a%c3", "The path has the invalid escape '%c3': send '%' and two upper-case hexadecimal digits."),
        (b"/a%", "The path has the invalid escape '%': send '%' and two upper-case hexadecimal digits."),
        (b"/%61dmin", "The path has the escape '%61': send 'a' instead."),
        (b"/pub%2Fadmin", "The path has the escape '%2F': send a path without it."),
        (b"/a//b", "The path has an empty segment: send '/' instead of '//'."),
        (b"/pub/../admin", "Segment 2 of the path ends with '.': remove dot segments and trailing dots."),
        (b"/b/%FF", "Segment 2 of the path is not valid UTF-8 when decoded: send percent-encoded UTF-8."),
        (b"/root%20/x", "Segment 1 of the path starts or ends with a space when decoded: remove it."),
        (b"/b%EF%BC%8Froot", "Segment 1 of the path has a form of '/' or '\\' when decoded: remove it."),
    ],
)
def test_a_rejection_says_what_is_wrong_and_what_to_send(path: bytes, reason: str) -> None:
    with pytest.raises(AmbiguousPath) as caught:
        split(path)
    assert str(caught.value) == reason


def reason_of(path: bytes) -> str:
    """Return why a path is rejected; "" if it is not."""
    try:
        split(path)
    except AmbiguousPath as error:
        return str(error)
    return ""


@given(st.binary(min_size=1, max_size=4).map(lambda part: b"/a" + part))
def test_following_a_rejections_advice_solves_it(path: bytes) -> None:
    reason = reason_of(path)
    if advice := re.search(r"the (?:character|escape) '(.*)': send (?:it as )?'(.*)'", reason, re.DOTALL):
        rejected, replacement = advice[1].encode("latin-1"), advice[2].encode("latin-1")
        assert reason_of(path.replace(rejected, replacement)) != reason


@given(st.binary(max_size=40).map(lambda tail: b"/" + tail))
def test_decoding_does_not_change_the_structure_of_an_accepted_path(path: bytes) -> None:
    try:
        segments = split(path)
    except AmbiguousPath:
        return
    assert "/" + "/".join(segments) == path.decode()
    decoded = unquote(path.decode(), errors="surrogateescape")
    # Decoding adds no separator and makes no dot segment, and doing it twice changes nothing more.
    assert decoded.count("/") == path.count(b"/")
    assert not {".", ".."} & set(decoded.split("/"))
    assert unquote(decoded, errors="surrogateescape") == decoded


@pytest.mark.parametrize(
    ("template", "path", "fits"),
    [
        ("/", b"/", True),
        ("/", b"/a", False),
        ("/a", b"/a", True),
        ("/a", b"/a/", False),
        ("/a", b"/A", False),
        ("/a/{id}", b"/a/7", True),
        ("/a/{id}", b"/a/", False),
        ("/a/{id}", b"/a", False),
        ("/a/{id}", b"/a/7/8", False),
        ("/a/{id}/c", b"/a/7/c", True),
        ("/a/{rest...}", b"/a/7/8", True),
        ("/a/{rest...}", b"/a", False),
        ("/a/{rest...}", b"/a/", False),
        ("/a/{rest...}", b"/a/7/", False),
        ("/a/{rest...}", b"/b/7", False),
        ("/{rest...}", b"/x", True),
    ],
)
def test_a_template_matches_whole_segments(template: str, path: bytes, fits: bool) -> None:
    assert parse_template(template).matches(split(path)) is fits


@pytest.mark.parametrize(
    "text",
    ["", "a", "/a//b", "/a/", "/{}", "/{Id}", "/{rest...}/b", "/a{b}", "/..", "/a/%2F", "/a b", "/{a", "/a?b", "/a."],
)
def test_a_template_that_no_path_can_match_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|segment|wildcard"):
        parse_template(text)


@pytest.mark.parametrize("part", ["*", "**", "*.html", "admin*", "(.*)", ":id", ":path*", "<id>", "<path:rest>"])
def test_a_wildcard_of_another_gateway_is_an_error_that_names_the_syntax(part: str) -> None:
    with pytest.raises(ValueError, match=r"\{id\} matches one segment, \{rest\.\.\.\} all remaining segments"):
        parse_template(f"/admin/{part}")


@pytest.mark.parametrize("text", ["/{id}/{id}", "/{id}/keys/{id}", "/{rest}/{rest...}", "/{a}/{rest...}/{rest...}"])
def test_a_duplicate_parameter_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"duplicate parameter|only allowed at the end"):
        parse_template(text)


@pytest.mark.parametrize("text", ["/things:batch", "/$metadata", "/users(1)", "/@me", "/~ada", "/a.b"])
def test_a_literal_segment_may_have_punctuation(text: str) -> None:
    assert parse_template(text).segments == (text[1:],)


def test_templates_sort_by_literals_then_parameters_then_tails() -> None:
    templates = [parse_template(text) for text in ("/{rest...}", "/a/{rest...}", "/{x}/b", "/a/{x}", "/a/b")]
    assert sorted(templates, key=lambda template: template.precedence) == [
        PathTemplate(("a", "b"), tail=False),
        PathTemplate(("a", None), tail=False),
        PathTemplate(("a",), tail=True),
        PathTemplate((None, "b"), tail=False),
        PathTemplate((), tail=True),
    ]
