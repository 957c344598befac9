"""Mutants of a module: small changes of its code that a test should detect.

A mutant replaces one part of the source and keeps the formatting of the rest, so its diff is readable.
"""

import ast
import difflib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_BOUNDARIES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}

#: Calls on these names decide nothing.
_LOGGERS = ("_log.", "log.", "logger.", "warnings.")


@dataclass(frozen=True)
class Mutant:
    """A module's source before and after one change."""

    line: int
    kind: str
    before: str
    after: str

    def diff(self, name: str) -> str:
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), name, name, n=1, lineterm="")
        return "\n".join(lines)


def mutants_of(source: str) -> list[Mutant]:
    """Return all mutants of a module, by line."""
    found = []
    for node, kind, text in _changes(ast.parse(source)):
        mutated = _replace(source, node, text)
        try:
            ast.parse(mutated)
        except SyntaxError:
            continue  # the replacement does not fit there
        found.append(Mutant(node.lineno, kind, source, mutated))
    return sorted(found, key=lambda mutant: mutant.line)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    for node in _deciding(tree):
        if isinstance(node, ast.expr):
            yield from ((node, kind, text) for kind, text in _of_expression(node))
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test, "condition negated", f"(not ({ast.unparse(node.test)}))"
        if isinstance(node, ast.stmt) and _can_be_left_out(node):
            yield node, "statement removed", "pass"


def _of_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare(ops=[op]):
            for kind, others in (("comparison flipped", _OPPOSITES), ("boundary moved", _BOUNDARIES)):
                if type(op) in others:
                    yield kind, _unparsed(node, ops=[others[type(op)]()])
        case ast.BoolOp(op=op):
            yield "and for or", _unparsed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "negation removed", f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            yield "constant changed", repr(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (("constant changed", repr(other)) for other in {value + 1, 0} - {value})


def _can_be_left_out(node: ast.stmt) -> bool:
    match node:
        case ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
            return True
        case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
            return not ast.unparse(node).removeprefix("await ").startswith(_LOGGERS)
    return False


def _deciding(node: ast.AST) -> Iterator[ast.AST]:
    """Yield executed nodes: no annotations, and no parts of f-strings, which have no exact positions in Python 3.11."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns"} or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _deciding(child)


def _unparsed(node: ast.Compare | ast.BoolOp, **changes: object) -> str:
    changed = deepcopy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return f"({ast.unparse(changed)})"


def _replace(source: str, node: ast.expr | ast.stmt, text: str) -> str:
    """Replace a node. Columns are byte offsets."""
    lines = source.encode().splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    changed = lines[first][: node.col_offset] + text.encode() + lines[last][node.end_col_offset :]
    return b"".join([*lines[:first], changed, *lines[last + 1 :]]).decode()
