"""Path templates: what they match, which goes first, and where two of them meet."""

import re
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_gateway.routing.paths import AmbiguousPath, canonicalise
from ostiary_gateway.routing.templates import (
    PARAMETER,
    PathTemplate,
    Pattern,
    common_path,
    common_segment,
    parse_template,
    rewrite,
    segment_contains,
    segment_matches,
)


@pytest.mark.parametrize(
    ("template", "path", "fits"),
    [
        ("/", b"/", True),
        ("/", b"/a", False),
        ("/a", b"/a", True),
        ("/a", b"/a/", False),
        ("/a", b"/A", False),
        ("/a/", b"/a/", True),
        ("/a/", b"/a", False),
        ("/a/{id}", b"/a/7", True),
        ("/a/{id}", b"/a/", False),
        ("/a/{id}", b"/a", False),
        ("/a/{id}", b"/a/7/", False),
        ("/a/{id}", b"/a/7/8", False),
        ("/a/{id}/", b"/a/7/", True),
        ("/a/{id}/", b"/a/7", False),
        ("/a/{id}/", b"/a//", False),
        ("/a/{id}/c", b"/a/7/c", True),
        ("/a/{rest...}", b"/a/7/8", True),
        ("/a/{rest...}", b"/a", False),
        ("/a/{rest...}", b"/a/", True),
        ("/a/{rest...}", b"/a/7/", True),
        ("/a/{rest...}", b"/b/7", False),
        ("/{rest...}", b"/x", True),
        ("/{rest...}", b"/", True),
        # Parts of segments.
        ("/reports/{name}.json", b"/reports/may.json", True),
        ("/reports/{name}.json", b"/reports/may.2026.json", True),
        ("/reports/{name}.json", b"/reports/.json", False),
        ("/reports/{name}.json", b"/reports/may.xml", False),
        ("/items/{id}:cancel", b"/items/7:cancel", True),
        ("/items/{id}:cancel", b"/items/7%3Acancel", True),
        ("/items/{id}:cancel", b"/items/7:cancelled", False),
        ("/Orders({id})", b"/Orders(7)", True),
        ("/Orders({id})", b"/Orders%287%29", True),
        ("/Orders({id})", b"/Orders()", False),
        ("/Orders({id})/", b"/Orders(7)/", True),
        ("/v{major}.{minor}", b"/v1.2", True),
        ("/v{major}.{minor}", b"/v1.2.3", True),
        ("/v{major}.{minor}", b"/v1.", False),
        ("/v{major}.{minor}", b"/v.1.", False),
        ("/{a}-{b}-{c}", b"/1-2-3", True),
        ("/{a}-{b}-{c}", b"/1-2", False),
        ("/@{user}/{repository}.git/{rest...}", b"/@ada/engine.git/info/refs", True),
        # A parameter takes escapes as a whole.
        ("/{name}0", b"/a%20", False),
        ("/{name}20", b"/a%20", False),
        ("/{name}.{type}", b"/a%2E", False),
        ("/{a}é{b}", "/1é2".encode(), True),
        # Escapes in templates.
        ("/caf%C3%A9", b"/caf%C3%A9", True),
        ("/caf%c3%a9", b"/caf%c3%a9", True),
        ("/café", b"/caf%C3%A9", True),
        ("/café", "/café".encode(), True),
        ("/a%20b", b"/a%20b", True),
        ("/%61dmin", b"/admin", True),
        ("/a[0]", b"/a%5B0%5D", True),
        ("/%2A", b"/*", True),
        ("/users/@me", b"/users/%40me", True),
        ("/a%40b", b"/a@b", True),
        ("/v1.", b"/v1.", True),
    ],
)
def test_a_template_matches_whole_segments(template: str, path: bytes, fits: bool) -> None:
    assert parse_template(template).matches(canonicalise(path).segments) is fits


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "/a//b",
            "//",
            "/{}",
            "/{Id}",
            "/{rest...}/b",
            "/{rest...}/",
            "/..",
            "/.",
            "/...",
            "/a/%2E%2e",
            "/%20",
            "/..%20",
        ),
        *("/a%2Fb", "/a%5Cb", "/a\\b", "/a;b", "/a%3Fb", "/a?b", "/a#b", "/a%25b", "/a%00", "/a%zz", "/a%FF", "/a b"),
        *("/{a", "/a}", "/{a}{b}", "/a{b}{c}d", "/x{rest...}", "/{rest...}x", "/{a}{rest...}", "/{id:[0-9]+}"),
    ],
)
def test_a_template_that_no_path_can_match_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|segment|wildcard|parameter"):
        parse_template(text)


@pytest.mark.parametrize("part", ["*", "**", "*.html", "admin*", "(.*)", ":id", ":path*", "<id>", "<path:rest>"])
def test_a_wildcard_of_another_gateway_is_an_error_that_names_the_syntax(part: str) -> None:
    with pytest.raises(ValueError, match=r"\{id\} matches one segment, \{rest\.\.\.\} all remaining segments"):
        parse_template(f"/admin/{part}")


@pytest.mark.parametrize(
    "text", ["/{id}/{id}", "/{id}/keys/{id}", "/{rest}/{rest...}", "/{a}/{rest...}/{rest...}", "/{a}.{a}"]
)
def test_a_duplicate_parameter_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"duplicate parameter|only allowed at the end"):
        parse_template(text)


@pytest.mark.parametrize("text", ["/things:batch", "/$metadata", "/users(1)", "/@me", "/~ada", "/a.b"])
def test_a_literal_segment_may_have_punctuation(text: str) -> None:
    assert parse_template(text).segments == (text[1:],)


def test_templates_sort_by_literals_then_patterns_then_parameters_then_tails() -> None:
    texts = ["/a/b", "/a/v{x}.json", "/a/{x}.json", "/a/v{x}", "/a/{x}", "/a/{x...}", "/{x}.b/c", "/{x}/b", "/{x...}"]
    templates = [parse_template(text) for text in texts]
    for one, other in pairwise(templates):
        assert one.precedence < other.precedence


def test_a_parameter_alone_is_a_pattern_without_text() -> None:
    assert parse_template("/a/{x}/{y}.b") == PathTemplate(("a", PARAMETER, Pattern(("", ".b"))), tail=False)


@pytest.mark.parametrize(
    ("template", "target", "path", "expected"),
    [
        ("/api/{rest...}", "/{rest...}", b"/api/", b"/"),
        ("/api/{rest...}", "/{rest...}", b"/api/users/", b"/users/"),
        ("/api/{rest...}", "/v1/{rest...}", b"/api/", b"/v1/"),
        ("/users/{id}/", "/u/{id}", b"/users/7/", b"/u/7"),
        ("/users/{id}", "/u/{id}/", b"/users/7", b"/u/7/"),
        ("/reports/{name}.json", "/r/{name}", b"/reports/a.b.json", b"/r/a.b"),
        ("/reports/{name}", "/r/{name}.json", b"/reports/a%2Cb", b"/r/a%2Cb.json"),
        ("/items/{id}:cancel", "/{id}/cancel", b"/items/4%402%3Acancel", b"/4%402/cancel"),
        ("/v{a}.{b}", "/{b}/{a}", b"/v1.2.3", b"/3/1.2"),
        ("/{a}-{b}", "/{a}/{b}", b"/%C3%A9%2B-%40", b"/%C3%A9%2B/%40"),
        ("/a", "/b%2Bc%40d", b"/a", b"/b%2Bc%40d"),
        ("/a", "/café", b"/a", b"/caf%C3%A9"),
    ],
)
def test_a_rewrite_keeps_the_values_as_they_came(template: str, target: str, path: bytes, expected: bytes) -> None:
    assert rewrite(path, template, target) == expected


def test_a_rewrite_to_a_dot_segment_is_rejected() -> None:
    with pytest.raises(AmbiguousPath):
        rewrite(b"/x..", "/x{a}", "/{a}")


# Patterns, against regular expressions.

_TEXTS = st.sampled_from(["", "a", "b", "ab", "ba", ".", "%20"])


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    middle = draw(st.lists(_TEXTS.filter(bool), max_size=2))
    return Pattern((draw(_TEXTS), *middle, draw(_TEXTS)))


def by_expression(pattern: Pattern) -> re.Pattern[str]:
    return re.compile("(?:%20|[^%])+".join(map(re.escape, pattern.texts)))


_WORDS = ["".join(units) for size in range(1, 5) for units in product(["a", "b", ".", "%20"], repeat=size)]


@given(patterns())
def test_a_pattern_matches_what_the_expression_does(pattern: Pattern) -> None:
    expression = by_expression(pattern)
    for word in _WORDS:
        assert pattern.matches(word) is (expression.fullmatch(word) is not None)


@given(patterns(), st.sampled_from(_WORDS))
def test_the_values_of_a_pattern_fill_it(pattern: Pattern, word: str) -> None:
    values = pattern.values(word)
    assert (values is not None) is pattern.matches(word)
    if values is not None:
        filled = "".join(text + value for text, value in zip(pattern.texts, (*values, ""), strict=True))
        assert filled == word


@given(patterns(), patterns())
def test_a_common_text_of_two_patterns_is_found(one: Pattern, other: Pattern) -> None:
    shared = common_segment(one, other)
    if any(one.matches(word) and other.matches(word) for word in _WORDS if word.strip(".")):
        assert shared is not None
    if shared is not None:
        assert one.matches(shared)
        assert other.matches(shared)
        assert shared.strip(".")


def test_a_digit_at_the_end_of_an_escape_is_no_text() -> None:
    one, other = parse_template("/{x}9").segments[0], parse_template("/{x}%C3%A9").segments[0]
    assert common_segment(one, other) is None


@given(patterns(), patterns())
def test_a_pattern_that_contains_another_matches_all_its_texts(wide: Pattern, narrow: Pattern) -> None:
    matched = [word for word in [*_WORDS, "c", "acb", "cac"] if narrow.matches(word)]
    if segment_contains(wide, narrow):
        assert all(wide.matches(word) for word in matched)
        assert wide == narrow or wide.length < narrow.length
    else:
        # "c" is in none of them.
        assert not wide.matches("c".join(narrow.texts))


@given(patterns(), st.sampled_from(_WORDS))
def test_literal_segments_are_patterns_of_one_text(pattern: Pattern, word: str) -> None:
    assert segment_contains(pattern, word) is segment_matches(pattern, word)
    assert (common_segment(word, pattern) == word) is pattern.matches(word)


# Templates, against all short paths.

_SEGMENTS = st.sampled_from(["a", "b", "{x}", "a{x}", "{x}b"])


@st.composite
def templates(draw: st.DrawFn) -> PathTemplate:
    segments = [each.replace("x", f"x{number}") for number, each in enumerate(draw(st.lists(_SEGMENTS, max_size=2)))]
    return parse_template("/" + "/".join([*segments, draw(st.sampled_from(["", "", "{r...}", "a", "{y}"]))]))


_PATHS = [
    segments
    for size in range(1, 5)
    for segments in product(["a", "b", "ab", "c"], repeat=size)
    if segments.count("c") < size or size == 1
]
_ALL = [*_PATHS, ("",), *((*segments, "") for segments in _PATHS)]


@given(templates(), templates())
def test_a_common_path_of_two_templates_is_found(one: PathTemplate, other: PathTemplate) -> None:
    shared = common_path(one, other)
    if any(one.matches(path) and other.matches(path) for path in _ALL):
        assert shared is not None
    if shared is not None:
        segments = canonicalise(shared.encode()).segments
        assert one.matches(segments)
        assert other.matches(segments)


@given(templates(), templates())
def test_a_template_that_contains_another_matches_all_its_paths(wide: PathTemplate, narrow: PathTemplate) -> None:
    found = [path for path in _ALL if narrow.matches(path)]
    if wide.contains(narrow):
        assert all(wide.matches(path) for path in found)
        assert wide.shape == narrow.shape or narrow.precedence < wide.precedence
    loosely = {path[:-1] if path[-1] == "" else path for path in found}
    if wide.without_slash().contains(narrow.without_slash(), tail_least=0):
        assert all(wide.without_slash().matches(path, tail_least=0) for path in loosely)


@given(templates())
def test_an_example_matches_its_template(template: PathTemplate) -> None:
    assert template.matches(template.example())
    assert template.contains(template)
