"""YAML with the line of each value, without features that make a file mean something else than it seems to.

libyaml reads it, ten times as fast as the parser of PyYAML in Python. Aliases, duplicate keys, keys that are no plain
scalars, and types that JSON does not have (dates, for example) are errors.
"""

from collections.abc import Mapping
from typing import Any

import yaml

#: Maximum nesting depth: a routes file needs six levels.
MAX_DEPTH = 32

#: Where a value is: keys and indexes, from the top down.
Location = tuple[str | int, ...]

_VALUE_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
_KEY_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "bool")}


class InvalidYaml(Exception):
    """An error in the file, with its line and, if known, its location."""

    def __init__(self, line: int, message: str, location: Location = ()) -> None:
        super().__init__(message)
        self.line = line
        self.location = location


def read(content: bytes) -> tuple[Any, Mapping[Location, int]]:
    """Parse a file into its value and the line of each nested value. Raises InvalidYaml."""
    try:
        text = content.decode()
        _check_events(text)
        return _load(text)
    except UnicodeDecodeError as error:
        raise InvalidYaml(content.count(b"\n", 0, error.start) + 1, "not valid UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = content.count(b"\n", 0, error.position) + 1
        raise InvalidYaml(line, f"character U+{error.character:04X} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InvalidYaml(mark.line + 1 if mark else 1, error.problem or "not valid YAML") from None


def _check_events(text: str) -> None:
    """Reject aliases and deep nesting before the recursive constructor sees them. Raises InvalidYaml."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise InvalidYaml(line, "aliases are not supported")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InvalidYaml(line, f"nested more than {MAX_DEPTH} levels deep")


def _load(text: str) -> tuple[Any, Mapping[Location, int]]:
    lines: dict[Location, int] = {}
    loader = yaml.CSafeLoader(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else _value(loader, node, (), lines)), lines
    finally:
        loader.dispose()


def _value(loader: yaml.CSafeLoader, node: yaml.Node, location: Location, lines: dict[Location, int]) -> Any:
    line = lines[location] = node.start_mark.line + 1
    if node.tag not in _VALUE_TAGS:
        raise InvalidYaml(line, f"type not allowed here: {_type(node)}", location)
    if isinstance(node, yaml.MappingNode):
        fields: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, location)
            key_line = key_node.start_mark.line + 1
            if key in fields:
                raise InvalidYaml(key_line, f"duplicate field '{key}'", location)
            fields[key] = _value(loader, value_node, (*location, key), lines)
            lines[*location, key] = key_line
        return fields
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*location, index), lines) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError):
        raise InvalidYaml(line, f"'{node.value}' is not a valid {_type(node)}", location) from None


def _type(node: yaml.Node) -> str:
    return node.tag.removeprefix("tag:yaml.org,2002:")


def _key(node: yaml.Node, location: Location) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _KEY_TAGS:
        raise InvalidYaml(node.start_mark.line + 1, "field names must be plain strings", location)
    return str(node.value)
