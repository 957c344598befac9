import inspect
import re

from ostiary_auth.domain import errors


def drawn() -> list[tuple[str, str]]:
    """Return the classes of the tree in the module's docstring, each with its base."""
    lines = re.findall(
        r"^(\+-- )?([A-Z]\w+)$", inspect.cleandoc(errors.__doc__ or "").replace("    ", ""), re.MULTILINE
    )
    pairs, root = [], "Exception"
    for branch, name in lines:
        root = root if branch else name
        pairs.append((name, root if branch else "Exception"))
    return pairs


def test_the_drawn_tree_has_every_error_in_the_order_of_the_module() -> None:
    classes = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__]
    assert drawn() == [(kind.__name__, kind.__base__.__name__) for kind in classes if kind.__base__ is not None]


def test_each_code_is_used_once() -> None:
    codes = [kind.code for kind in errors.AuthError.__subclasses__()]
    assert len(codes) == len(set(codes))
