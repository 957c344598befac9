"""The domain reads no clock: times are passed in."""

import ast
from pathlib import Path

import pytest

import ostiary_auth.domain

DOMAIN = Path(ostiary_auth.domain.__file__).parent
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"}


@pytest.mark.parametrize("path", sorted(DOMAIN.rglob("*.py")), ids=lambda path: str(path.relative_to(DOMAIN)))
def test_no_module_of_the_domain_reads_a_clock(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert "time" not in names
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            reader = ast.unparse(node.func.value)
            assert reader in {"self.clock", "self._clock", "self.local.revocations"}, ast.unparse(node)
