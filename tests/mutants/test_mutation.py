import pytest
from mutation import mutants_of


def changed(source: str) -> set[str]:
    return {mutant.after for mutant in mutants_of(source)}


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("a == b", {"(a != b)"}),
        ("a < b", {"(a >= b)", "(a <= b)"}),
        ("a not in b", {"(a in b)"}),
        ("a and b or c", {"((a and b) and c)", "(a or b) or c"}),
        ("not a", {"(a)"}),
        ("LIMIT = 4", {"LIMIT = 5", "LIMIT = 0"}),
        ("LIMIT = 0", {"LIMIT = 1"}),
        ("strict = True", {"strict = False"}),
        ("if a:\n    raise B", {"if (not (a)):\n    raise B", "if a:\n    pass"}),
        ("check(a)", {"pass"}),
        ("count += step", {"pass"}),
    ],
)
def test_each_kind_of_change(source: str, mutants: set[str]) -> None:
    assert changed(source) <= mutants
    assert changed(source)


@pytest.mark.parametrize(
    "source",
    ["a: 'B | 4'", "_log.info('x', n=n)", '"""Doc."""', "f'{a == b}'", "def f(x: Literal[3]) -> Literal[4]: ..."],
)
def test_what_decides_nothing_stays(source: str) -> None:
    assert changed(source) == set()


def test_the_rest_of_the_source_stays_as_it_is_written() -> None:
    source = 'é = "ü"; a = (b  # why\n     < 3)\n'
    assert 'é = "ü"; a = ((b <= 3))\n' in changed(source)


def test_a_diff_shows_the_changed_line() -> None:
    (mutant,) = mutants_of("x = 1\nif_ = a == b\n")[2:]
    assert (mutant.line, mutant.kind) == (2, "comparison flipped")
    assert "-if_ = a == b\n+if_ = (a != b)" in mutant.diff("m.py")
