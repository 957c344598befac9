"""YAML with the line of each value, without features that make a file mean something else than it seems to.

Aliases, duplicate keys, keys that are no plain scalars, and types that JSON does not have (dates, for example) are
errors. Values are made from the parser's events, one at a time: other threads go on meanwhile, and there is no tree of
nodes to be freed at once.
"""

from collections.abc import Mapping
from typing import Any

import yaml

#: Maximum nesting depth: a routes file needs six levels.
MAX_DEPTH = 32

#: Where a value is: keys and indexes, from the top down.
Location = tuple[str | int, ...]

#: An event of PyYAML's; its type stubs leave out the tags.
Event = Any

# libyaml, where PyYAML has been built with it, is ten times as fast as the parser in Python.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_TEXT_TAG = f"{_TAG}str"
_VALUE_TAGS = {f"{_TAG}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
_KEY_TAGS = {f"{_TAG}{kind}" for kind in ("str", "int", "bool")}


class InvalidYaml(Exception):
    """An error in the file, with its line and, if known, its location."""

    def __init__(self, line: int, message: str, location: Location = ()) -> None:
        super().__init__(message)
        self.line = line
        self.location = location


def read(content: bytes) -> Any:
    """Parse a file into its value. Raises InvalidYaml."""
    return _read(content, None)


def read_lines(content: bytes) -> Mapping[Location, int]:
    """Return the line of each nested value of a valid file."""
    lines: dict[Location, int] = {}
    _read(content, lines)
    return lines


def _read(content: bytes, lines: dict[Location, int] | None) -> Any:
    try:
        loader = _Loader(content.decode())
        try:
            return _Reader(loader, lines).document()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise InvalidYaml(content.count(b"\n", 0, error.start) + 1, "not valid UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = content.count(b"\n", 0, error.position) + 1
        raise InvalidYaml(line, f"character U+{error.character:04X} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InvalidYaml(mark.line + 1 if mark else 1, error.problem or "not valid YAML") from None


class _Reader:
    """Makes values from a loader's events. All methods raise InvalidYaml."""

    def __init__(self, loader: Any, lines: dict[Location, int] | None) -> None:
        self._loader = loader
        self._lines = lines

    def document(self) -> Any:
        """Return the value of the only document; None if there is none."""
        value = None
        self._next()  # the stream starts
        if isinstance(self._next(), yaml.DocumentStartEvent):
            value = self._value(self._next(), ())
            self._next()  # the document ends
            if not isinstance(event := self._next(), yaml.StreamEndEvent):
                raise InvalidYaml(_line(event), "a second document is not supported")
        return value

    def _next(self) -> Event:
        return self._loader.get_event()

    def _value(self, event: Event, location: Location) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise InvalidYaml(_line(event), "aliases are not supported")
        if self._lines is not None:
            self._lines.setdefault(location, _line(event))
        tag = self._tag(event)
        if tag not in _VALUE_TAGS:
            raise InvalidYaml(_line(event), f"type not allowed here: {_type(tag)}", location)
        if isinstance(event, yaml.ScalarEvent):
            return event.value if tag == _TEXT_TAG else self._scalar(event, tag, location)
        if len(location) == MAX_DEPTH:
            raise InvalidYaml(_line(event), f"nested more than {MAX_DEPTH} levels deep")
        return self._fields(location) if isinstance(event, yaml.MappingStartEvent) else self._items(location)

    def _tag(self, event: Event) -> str:
        if event.tag is not None and event.tag != "!":
            return str(event.tag)
        if isinstance(event, yaml.ScalarEvent):
            return str(self._loader.resolve(yaml.ScalarNode, event.value, event.implicit))
        return f"{_TAG}map" if isinstance(event, yaml.MappingStartEvent) else f"{_TAG}seq"

    def _scalar(self, event: Event, tag: str, location: Location) -> Any:
        try:
            return self._loader.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark))
        except (ValueError, LookupError):
            raise InvalidYaml(_line(event), f"'{event.value}' is not a valid {_type(tag)}", location) from None

    def _fields(self, location: Location) -> dict[str, object]:
        fields: dict[str, object] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, location)
            if key in fields:
                raise InvalidYaml(_line(event), f"duplicate field '{key}'", location)
            if self._lines is not None:
                self._lines[*location, key] = _line(event)
            fields[key] = self._value(self._next(), (*location, key))
        return fields

    def _items(self, location: Location) -> list[object]:
        items: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, (*location, len(items))))
        return items

    def _key(self, event: Event, location: Location) -> str:
        if isinstance(event, yaml.AliasEvent):
            raise InvalidYaml(_line(event), "aliases are not supported")
        if not isinstance(event, yaml.ScalarEvent) or self._tag(event) not in _KEY_TAGS:
            raise InvalidYaml(_line(event), "field names must be plain strings", location)
        return str(event.value)


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _type(tag: str) -> str:
    return tag.removeprefix(_TAG)
