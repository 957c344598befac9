"""RFC 3986: one canonical form of a path is accepted, and what is matched is what is sent."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_gateway.paths import AmbiguousPath, PathTemplate, parse_template, split


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
        (b"/...", ("...",)),
    ],
)
def test_a_canonical_path_is_cut_as_it_came(path: bytes, segments: tuple[str, ...]) -> None:
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
        b"/" + b"a" * 5000,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(path: bytes) -> None:
    with pytest.raises(AmbiguousPath):
        split(path)


@given(st.binary(max_size=40).map(lambda tail: b"/" + tail))
def test_an_accepted_path_means_the_same_decoded_or_not(path: bytes) -> None:
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
def test_a_template_fits_whole_segments(template: str, path: bytes, fits: bool) -> None:
    assert parse_template(template).matches(split(path)) is fits


@pytest.mark.parametrize(
    "text", ["", "a", "/a//b", "/a/", "/{}", "/{Id}", "/{rest...}/b", "/a{b}", "/..", "/a/%2F", "/a b", "/{a", "/a?b"]
)
def test_a_template_that_no_path_could_fit_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|stands|segment"):
        parse_template(text)


def test_from_the_left_literals_go_before_parameters_and_these_before_tails() -> None:
    templates = [parse_template(text) for text in ("/{rest...}", "/a/{rest...}", "/{x}/b", "/a/{x}", "/a/b")]
    assert sorted(templates, key=lambda template: template.precedence) == [
        PathTemplate(("a", "b"), tail=False),
        PathTemplate(("a", None), tail=False),
        PathTemplate(("a",), tail=True),
        PathTemplate((None, "b"), tail=False),
        PathTemplate((), tail=True),
    ]
