"""Path templates, such as `/profiles/{id}`, `/reports/{name}.json` and `/files/{rest...}`.

A segment of a template is literal text or a pattern: parameters with literal text around them. A parameter alone is a
pattern without text. All texts are as in `paths.CanonicalPath.segments`. A parameter matches one character or more.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from ostiary_gateway.routing import paths
from ostiary_gateway.routing.paths import PATH_CACHE_SIZE, AmbiguousPath

#: Value of parameters in example paths.
EXAMPLE: Final = "x"

_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*(?:\.\.\.)?)\}")
_UNIT = re.compile(r"%..|.", re.DOTALL)

# Wildcards in the syntax of other gateways. As literal segments, they would protect nothing.
_FOREIGN_WILDCARD = re.compile(r":|<.*>\Z|.*\*")

_TAIL = "..."

# Stands for what a parameter matches; in no path.
_ANYTHING = "\0"


@dataclass(frozen=True)
class Pattern:
    """Parameters in a segment, with the texts before, between and after them.

    Values are split from the right: to `{name}.{type}`, `a.b.c` is `a.b` and `c`.
    """

    texts: tuple[str, ...]

    @cached_property
    def length(self) -> int:
        return sum(map(len, self.texts))

    def matches(self, segment: str) -> bool:
        return self.spans(segment) is not None

    def spans(self, segment: str) -> list[tuple[int, int]] | None:
        """Return where the parameters' values are; None if the segment does not match."""
        first, *middle, last = self.texts
        start, end = len(first), len(segment) - len(last)
        if not (segment.startswith(first) and segment.endswith(last) and _is_boundary(segment, end)):
            return None
        found: list[tuple[int, int]] = []
        for text in reversed(middle):
            position = _find_last(segment, text, start + 1, end - 1)
            if position < 0:
                return None
            found.append((position + len(text), end))
            end = position
        if end <= start:
            return None
        return [(start, end), *reversed(found)]

    def values(self, raw: str) -> tuple[str, ...] | None:
        """Return the parameters' values in a segment with its original escapes; None if it does not match."""
        segment = paths.matched(raw)
        spans = self.spans(segment)
        if spans is None or len(segment) == len(raw):
            return None if spans is None else tuple(raw[start:end] for start, end in spans)
        units, originals = _UNIT.findall(segment), _UNIT.findall(raw)
        return tuple(
            "".join(originals[_units_before(units, start) : _units_before(units, end)]) for start, end in spans
        )


Segment = str | Pattern

#: A segment that is a parameter alone.
PARAMETER: Final = Pattern(("", ""))


def segment_example(segment: Segment) -> str:
    return segment if isinstance(segment, str) else EXAMPLE.join(segment.texts)


def _is_boundary(text: str, position: int) -> bool:
    """Return whether a position is not inside of an escape."""
    return "%" not in text[max(0, position - 2) : max(0, position)]


def _find_last(text: str, wanted: str, start: int, end: int) -> int:
    position = text.rfind(wanted, start, end)
    while position >= 0 and not _is_boundary(text, position):
        position = text.rfind(wanted, start, position + len(wanted) - 1)
    return position


def _units_before(units: list[str], position: int) -> int:
    count = size = 0
    while size < position:
        size += len(units[count])
        count += 1
    return count


def segment_matches(wanted: Segment, segment: str) -> bool:
    return wanted == segment if isinstance(wanted, str) else wanted.matches(segment)


def segment_contains(wide: Segment, narrow: Segment) -> bool:
    """Return whether `wide` matches all that `narrow` matches."""
    if isinstance(narrow, str):
        return segment_matches(wide, narrow)
    # If it matches the pattern with a character in each parameter that it has nowhere itself, then with all others.
    return not isinstance(wide, str) and wide.matches(_ANYTHING.join(narrow.texts))


def common_segment(one: Segment, other: Segment) -> str | None:
    """Return a text that both match; None if there is none."""
    if isinstance(one, str):
        return one if segment_matches(other, one) else None
    if isinstance(other, str):
        return other if segment_matches(one, other) else None
    first = _longer(one.texts[0], other.texts[0], str.startswith)
    last = _longer(one.texts[-1], other.texts[-1], _ends_with) if first is not None else None
    if first is None or last is None:
        return None
    # Whatever is between, each of them has a parameter that takes what belongs to the other one.
    return EXAMPLE.join((first, *one.texts[1:-1], *other.texts[1:-1], last))


def _longer(one: str, other: str, goes_on_from: Callable[[str, str], bool]) -> str | None:
    """Return the longer one of two texts if it has the other one at the same end; otherwise None."""
    if goes_on_from(one, other):
        return one
    return other if goes_on_from(other, one) else None


def _ends_with(text: str, end: str) -> bool:
    return text.endswith(end) and _is_boundary(text, len(text) - len(end))


def common_segments(one: Sequence[Segment], other: Sequence[Segment]) -> list[str] | None:
    """Return texts that both match, as far as both have segments; None if there are none."""
    found: list[str] = []
    for pair in zip(one, other, strict=False):
        shared = common_segment(*pair)
        if shared is None:
            return None
        found.append(shared)
    return found


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with parameters. A `tail` matches one or more further segments, the last of which may be empty."""

    segments: tuple[Segment, ...]
    tail: bool
    #: By segment, and for the tail: the texts around the parameters, as they were written, and the parameters' names.
    parts: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = field(default=(), compare=False)

    @property
    def shape(self) -> tuple[tuple[Segment, ...], bool]:
        """Equal for templates that match the same paths."""
        return self.segments, self.tail

    @property
    def precedence(self) -> tuple[tuple[object, ...], ...]:
        """Sort key: from the left, literals before patterns with more text before parameters before tails."""
        return *map(segment_precedence, self.segments), *([(2,)] if self.tail else [])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters; those of tails with their dots."""
        return tuple(name for _, names in self.parts for name in names)

    def matches(self, segments: tuple[str, ...], tail_least: int = 1) -> bool:
        """Return whether a path matches, if a tail matches at least so many segments."""
        if self.tail:
            if len(segments) < len(self.segments) + tail_least:
                return False
        elif len(segments) != len(self.segments):
            return False
        return all(segment_matches(*pair) for pair in zip(self.segments, segments, strict=False))

    def contains(self, other: "PathTemplate", tail_least: int = 1) -> bool:
        """Return whether this template matches all paths that the other one matches."""
        if self.tail:
            if len(other.segments) + other.tail * tail_least < len(self.segments) + tail_least:
                return False
        elif other.tail or len(self.segments) != len(other.segments):
            return False
        return all(segment_contains(*pair) for pair in zip(self.segments, other.segments, strict=False))

    def without_slash(self) -> "PathTemplate":
        """Return the template without a slash at its end."""
        return PathTemplate(self.segments[:-1], tail=False) if self.segments[-1:] == ("",) else self

    def folded(self, *, ignores_case: bool) -> "PathTemplate":
        """Return the template of the paths as lenient services see them."""
        return PathTemplate(tuple(_folded(each, ignores_case=ignores_case) for each in self.segments), self.tail)

    def values(self, raw: tuple[str, ...]) -> dict[str, str] | None:
        """Return the parameters' values in a path, given with its original escapes; None if it does not match."""
        if not self.matches(tuple(map(paths.matched, raw))):
            return None
        found: dict[str, str] = {}
        for position, (segment, (_, names)) in enumerate(zip(self.segments, self.parts, strict=False)):
            values = segment.values(raw[position]) if isinstance(segment, Pattern) else ()
            found |= zip(names, values or (), strict=True)
        if self.tail:
            found[self.parts[-1][1][0]] = "/".join(raw[len(self.segments) :])
        return found

    def filled(self, value_of: Callable[[str], str]) -> str:
        """Return the path with these values of the parameters."""
        return "/" + "/".join(
            texts[0] + "".join(value_of(name) + text for name, text in zip(names, texts[1:], strict=True))
            for texts, names in self.parts
        )

    def example(self) -> tuple[str, ...]:
        """Return the segments of a path that matches."""
        segments = tuple(map(segment_example, self.segments))
        return (*segments, EXAMPLE) if self.tail else segments


def segment_precedence(segment: Segment) -> tuple[object, ...]:
    """Sort key: literals before patterns, with more text first."""
    return (0,) if isinstance(segment, str) else (1, -segment.length, segment.texts)


def _folded(segment: Segment, *, ignores_case: bool) -> Segment:
    if isinstance(segment, str):
        return paths.fold(segment, ignores_case=ignores_case)
    first, *middle, last = (paths.fold_text(text, ignores_case=ignores_case) for text in segment.texts)
    return Pattern((first.lstrip(), *middle, paths.strip_end(last)))


@lru_cache(PATH_CACHE_SIZE)
def parse_template(text: str) -> PathTemplate:
    """Parse a template. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError("a path must start with '/'")
    names = [name.removesuffix(_TAIL) for name in parameters(text)]
    if len(set(names)) != len(names):
        raise ValueError("duplicate parameter in path")
    written = text[1:].split("/")
    segments: list[Segment] = []
    parts: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for position, part in enumerate(written):
        is_last = position == len(written) - 1
        # Texts and names in turn.
        pieces = _PARAMETER.split(part)
        parts.append((tuple(_literal(each, part) for each in pieces[::2]), tuple(pieces[1::2])))
        if part.endswith(f"{_TAIL}}}") and pieces[1::2] and pieces[-2].endswith(_TAIL):
            if pieces[0] or len(pieces) > 3 or not is_last:  # noqa: PLR2004 - a name between two texts
                raise ValueError(f"'{part}' is only allowed at the end of a path, and not as a part of a segment")
            return PathTemplate(tuple(segments), True, tuple(parts))
        if not part and not is_last:
            raise ValueError("a path has no empty segments: write '/' instead of '//'")
        segments.append(_segment(part, parts[-1][0]))
    return PathTemplate(tuple(segments), False, tuple(parts))


def _segment(part: str, texts: tuple[str, ...]) -> Segment:
    if len(texts) == 1:
        if texts[0] and paths.is_dots(paths.plain_text(paths.decoded(texts[0]))):
            raise ValueError(f"'{part}' is neither a literal segment nor a parameter: no path has dot segments")
        return paths.matched(texts[0])
    if any(_TAIL in name for name in _PARAMETER.findall(part)):
        raise ValueError(f"'{part}' is only allowed at the end of a path, and not as a part of a segment")
    if "" in texts[1:-1]:
        raise ValueError(f"'{part}' has two parameters without text between them")
    return Pattern(tuple(map(paths.matched, texts)))


def _literal(text: str, part: str) -> str:
    """Return literal text in canonical form. Raises ValueError."""
    if _FOREIGN_WILDCARD.match(part):
        raise ValueError(
            f"wildcard '{part}' is not supported: {{id}} matches one segment, {{rest...}} all remaining segments"
        )
    if "{" in text or "}" in text:
        raise ValueError(f"'{part}' is neither a literal segment nor one with parameters such as {{id}}")
    try:
        literal = paths.normalise_text(text.encode())
        paths.decoded(literal)
    except AmbiguousPath as error:
        raise ValueError(f"'{part}' is no segment of a path: {error}") from None
    if specials := paths.specials_of(literal):
        raise ValueError(f"'{part}' is no segment of a template: services may read '{min(specials)}' in two ways")
    return literal


def parameters(text: str) -> tuple[str, ...]:
    """Return the names of a template's parameters; those of tails with their dots."""
    return tuple(_PARAMETER.findall(text))


@lru_cache(PATH_CACHE_SIZE)
def rewrite(path: bytes, template: str, target: str) -> bytes:
    """Fill the parameters of `target` from a canonical path that matches `template`. Raises InvalidPath."""
    values = parse_template(template).values(raw_segments(path))
    assert values is not None  # noqa: S101 - the route was found by this template
    canonical = paths.canonicalise(parse_template(target).filled(values.__getitem__).encode())
    if canonical.specials:
        paths.readings(canonical.raw)
    return canonical.raw


def raw_segments(path: bytes) -> tuple[str, ...]:
    return tuple(path.decode("ascii")[1:].split("/"))


def common_path(one: PathTemplate, other: PathTemplate) -> str | None:
    """Return a path that both templates match; None if there is none."""
    shorter, longer = sorted((one, other), key=lambda each: len(each.segments))
    rest = longer.segments[len(shorter.segments) :]
    if rest and not shorter.tail:
        return None
    shared = common_segments(shorter.segments, longer.segments)
    if shared is None:
        return None
    found = [*shared, *map(segment_example, rest)]
    least = max(len(each.segments) + each.tail for each in (one, other))
    if least > len(found):
        # A tail matches at least one segment.
        if not (one.tail and other.tail):
            return None
        found.append(EXAMPLE)
    return "/" + "/".join(found)
