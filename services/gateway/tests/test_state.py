import ast
from pathlib import Path
from types import ModuleType

import pytest

from ostiary_gateway.proxy import downstream, exchange, tunnel
from ostiary_gateway.sessions import exchange_request, renewals
from ostiary_gateway.state import IllegalTransition, State
from ostiary_gateway.upstream import circuit_breaker, connection

SOURCES = Path(__file__).parents[1] / "src"
MODULES = (circuit_breaker, connection, downstream, exchange, exchange_request, renewals, tunnel)


def test_a_declared_transition_returns_the_next_state() -> None:
    idle, busy = State("idle"), State("busy")
    idle.leads_to(busy)
    assert idle.to(busy) is busy


def test_an_undeclared_transition_raises_and_names_both_states() -> None:
    idle, busy = State("idle"), State("busy")
    idle.leads_to(busy)
    with pytest.raises(IllegalTransition, match=r"^busy -> idle$"):
        busy.to(idle)
    with pytest.raises(IllegalTransition, match=r"^idle -> idle$"):
        idle.to(idle)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_state_of_a_module_is_in_its_diagram(module: ModuleType) -> None:
    # From the source: a compiled module has no docstring.
    source = (SOURCES / f"{module.__name__.replace('.', '/')}.py").read_text()
    diagram = ast.get_docstring(ast.parse(source)) or ""
    names = [name for name, value in vars(module).items() if isinstance(value, State)]
    assert names
    assert [name for name in names if name not in diagram] == []
