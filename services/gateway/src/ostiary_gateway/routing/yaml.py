"""YAML with the line on which each value stands; without what makes a file say something else than it seems to.

That is: aliases, members that stand there twice, names that are not plain text, and kinds of values that are none of
JSON's, such as dates.
"""

from collections.abc import Mapping
from typing import Any

import yaml

#: How deep values may stand in others: a routes file needs six levels.
MAX_DEPTH = 32

#: Where a value is: names and indexes down from the top.
Location = tuple[str | int, ...]

#: The kinds of values that a file holds; a date, say, is none of them.
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}

_NAME_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "bool")}


class BadYaml(Exception):
    """What cannot be read, with its line and, where there is one, its place."""

    def __init__(self, line: int, message: str, location: Location = ()) -> None:
        """Make the error."""
        super().__init__(message)
        self.line = line
        self.location = location


def read(content: bytes) -> tuple[Any, Mapping[Location, int]]:
    """Return what is in a file, and the line of each value. Raises BadYaml."""
    try:
        text = content.decode()
        _check_events(text)
        return _load(text)
    except UnicodeDecodeError as error:
        raise BadYaml(content.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = content.decode().count("\n", 0, error.position) + 1
        raise BadYaml(line, f"the character U+{error.character:04X} may not be in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(mark.line + 1 if mark else 1, error.problem or "not YAML") from None


def _check_events(text: str) -> None:
    """See that there are no aliases, and that what reads the values does not get too deep. Raises BadYaml."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise BadYaml(line, "aliases are not supported here")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise BadYaml(line, f"values stand in others, more than {MAX_DEPTH} deep")


def _load(text: str) -> tuple[Any, Mapping[Location, int]]:
    lines: dict[Location, int] = {}
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else _value(loader, node, (), lines)), lines
    finally:
        loader.dispose()


def _value(loader: yaml.SafeLoader, node: yaml.Node, location: Location, lines: dict[Location, int]) -> Any:
    line = lines[location] = node.start_mark.line + 1
    if node.tag not in _TAGS:
        raise BadYaml(line, f"a value of this kind ({node.tag}) has no place here", location)
    if isinstance(node, yaml.MappingNode):
        members: dict[str, object] = {}
        for name_node, value_node in node.value:
            name = _name(name_node, location)
            name_line = name_node.start_mark.line + 1
            if name in members:
                raise BadYaml(name_line, f"'{name}' stands here twice", location)
            members[name] = _value(loader, value_node, (*location, name), lines)
            lines[*location, name] = name_line
        return members
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*location, index), lines) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError):
        raise BadYaml(line, f"'{node.value}' is not of the kind {node.tag.rpartition(':')[2]}", location) from None


def _name(node: yaml.Node, location: Location) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _NAME_TAGS:
        raise BadYaml(node.start_mark.line + 1, "the name of a member must be plain text", location)
    return str(node.value)
