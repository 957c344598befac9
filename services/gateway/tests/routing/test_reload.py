"""A reload amounts to what a start with the same file does, and leaves alone what no change of the file affects."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.bypass_check import IndexedRoutes
from ostiary_gateway.routing.source import RoutesSource

#: What a route says, by field: values that meet, overlap, bypass one another, or are errors.
FIELDS: dict[str, list[Any]] = {
    "path": [
        "/a",
        "/a/",
        "/A",
        "/a/b",
        "/a/{x}",
        "/{x}/b",
        "/a/{x...}",
        "/{x...}",
        "/a/x",
        "/b/{x}",
        "/x/{x...}",
        "/{x}.j",
    ],
    "methods": [["GET"], ["GET"], ["GET"], ["GET", "HEAD"], ["HEAD"], ["POST"], ["GET", "POST"]],
    "hosts": [[], [], [], ["h.test"], ["*.test"]],
    "headers": [{}, {}, {}, {"X-V": "1"}, {"X-Secret": "1"}],
    "upstream": ["one", "one", "same", "two", {"one": 1, "two": 1}],
    "access": ["public", "authenticated", "optional", {"roles": ["admin"]}, {"roles": ["admin"]}],
    "rewrite": [None, None, None, "/a", "/b/{x}"],
    "allows_encoded": [[], [], [], ["/"]],
    "drop_headers": [[], [], [], ["X-Secret"]],
    "max_staleness": ["default", "default", "default", "none"],
}

#: The rest of the file.
REST: dict[str, list[Any]] = {
    "one": ["http://one", "http://one:81"],
    "same": ["http://one:80", "http://other"],
    "two": ["http://two", "http://one:81"],
    "ignores_case": [False, True],
    "defaults": [{}, {"rate_limits": [{"by": "subject", "requests": 9, "seconds": 1}]}, {"retries": {"attempts": 1}}],
    "browser": [None, None, {"upstream": "two"}],
}


def route(chosen: dict[str, Any], name: str) -> dict[str, Any]:
    match = {field: chosen[field] for field in ("path", "methods", "hosts", "headers")}
    rest = {field: value for field, value in chosen.items() if field not in match and value is not None}
    return {"name": name, "match": match, **rest}


def file(rest: dict[str, Any], routes: dict[str, dict[str, Any]]) -> bytes:
    upstreams = {name: {"url": rest[name]} for name in ("one", "same", "two")}
    upstreams["two"]["ignores_case"] = rest["ignores_case"]
    members = {"upstreams": upstreams, "defaults": rest["defaults"], "browser": rest["browser"]}
    return json.dumps({**members, "routes": [route(chosen, name) for name, chosen in routes.items()]}).encode()


@st.composite
def versions(draw: st.DrawFn) -> list[bytes]:
    """Draw versions of a file: in each of them, something changes, comes, goes or moves."""
    one_of: Callable[[dict[str, list[Any]]], dict[str, Any]] = lambda pool: {  # noqa: E731
        field: draw(st.sampled_from(values)) for field, values in pool.items()
    }
    rest = {field: values[0] for field, values in REST.items()}
    routes = {f"r{number}": one_of(FIELDS) for number in range(draw(st.integers(2, 5)))}
    found = [file(rest, routes)]
    for number in range(draw(st.integers(1, 6))):
        name = draw(st.sampled_from([*routes, f"n{number}"]))
        edit = draw(st.sampled_from(["change", "change", "put", "put", "remove", "move", "rest", "back"]))
        if edit == "back":
            found.append(draw(st.sampled_from(found)))
            continue
        if edit == "rest":
            field = draw(st.sampled_from(sorted(REST)))
            rest[field] = draw(st.sampled_from(REST[field]))
        elif edit == "put" or name not in routes:
            routes[name] = one_of(FIELDS)
        elif edit == "change":
            field = draw(st.sampled_from(sorted(FIELDS)))
            routes[name] = {**routes[name], field: draw(st.sampled_from(FIELDS[field]))}
        else:
            moved = routes.pop(name)
            if edit == "move":
                routes[name] = moved
        found.append(file(rest, routes))
    return found


def result(source: RoutesSource) -> Any:
    """Return all that loading a file amounts to."""
    try:
        routes = source.load()
    except ConfigError as error:
        return str(error)
    index = routes.owners
    contested = {name: (where.routes, where.ignores_case, plain) for name, (where, plain) in index.contested.items()}
    return routes.file, routes.table.routes, contested


@given(versions())
def test_a_reload_amounts_to_a_start_with_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, versions: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "reloaded.yaml"
    source = RoutesSource(path)
    for content in versions:
        path.write_bytes(content)
        assert result(source) == result(RoutesSource(path))


def write(path: Path, routes: dict[str, dict[str, Any]], **rest: Any) -> None:
    first = {field: values[0] for field, values in FIELDS.items()}
    every = {field: values[0] for field, values in REST.items()}
    path.write_bytes(file(every | rest, {name: first | each for name, each in routes.items()}))


def load(source: RoutesSource, path: Path, routes: dict[str, dict[str, Any]], **rest: Any) -> IndexedRoutes:
    write(path, routes, **rest)
    return source.load()


ADMIN = {"access": {"roles": ["admin"]}}

#: Edits after which another answer holds for a route that stays as it is: the file before, and what changes.
EDITS: dict[str, tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any] | None], dict[str, Any]]] = {
    "a route goes that took the path by which another one would bypass a third": (
        {
            "open": {"path": "/a/{x}", "rewrite": "/b/{x}"},
            "closed": {"path": "/b/{x}", **ADMIN},
            "taker": {"path": "/a/x", "upstream": "two"},
        },
        {"taker": None},
        {},
    ),
    "a stricter route comes": ({"open": {"path": "/a/{x...}"}}, {"closed": {"path": "/a/b", **ADMIN}}, {}),
    "a stricter route goes": (
        {"open": {"path": "/a/{x...}"}, "closed": {"path": "/a/b", **ADMIN}},
        {"closed": None},
        {},
    ),
    "a stricter route leads elsewhere": (
        {"open": {"path": "/a/{x...}"}, "closed": {"path": "/a/b", **ADMIN}},
        {"closed": {"path": "/a/b", "upstream": "two", **ADMIN}},
        {},
    ),
    "an upstream moves to the address of another one": (
        {"open": {"path": "/a/{x}"}, "closed": {"path": "/b/{x}", "rewrite": "/a/{x}", "upstream": "two", **ADMIN}},
        {},
        {"two": "http://one:80"},
    ),
    "an upstream ignores the case of paths": (
        {"open": {"path": "/A", "upstream": "two"}, "closed": {"path": "/a", "upstream": "two", **ADMIN}},
        {},
        {"ignores_case": True},
    ),
    "a route comes whose path is one that another one lets be encoded": (
        {"open": {"path": "/{x}", "allows_encoded": ["/"]}},
        {"closed": {"path": "/a/b", **ADMIN}},
        {},
    ),
    "a route comes that lists HEAD": ({"open": {"path": "/a"}}, {"head": {"path": "/a", "methods": ["HEAD"]}}, {}),
    "the route goes that lists HEAD": (
        {"open": {"path": "/a"}, "head": {"path": "/a", "methods": ["HEAD"]}},
        {"head": None},
        {},
    ),
    "defaults come": ({"open": {"path": "/a"}}, {}, {"defaults": {"retries": {"attempts": 1}}}),
    "browser sessions come": ({"open": {"path": "/a", **ADMIN}}, {}, {"browser": {"upstream": "two"}}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_reload_sees_what_changes_for_routes_that_stay(edit: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    source = RoutesSource(path)
    before, changes, rest = EDITS[edit]
    load(source, path, before)
    before_it = result(source)
    write(path, {name: each for name, each in (before | changes).items() if each is not None}, **rest)
    after = result(source)
    assert after == result(RoutesSource(path))
    assert after != before_it


def test_what_no_change_affects_is_neither_read_nor_proved_again(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    source = RoutesSource(path)
    routes: dict[str, dict[str, Any]] = {
        "a": {"path": "/a"},
        "all-of-b": {"path": "/b/{rest...}"},
        "b": {"path": "/b/{id}"},
        "elsewhere": {"path": "/c", "upstream": "two", "rewrite": "/b/c"},
    }
    before = load(source, path, routes)
    assert set(before.owners.affected) == set(routes)
    assert set(load(source, path, routes).owners.affected) == set()
    # A change, and what overlaps with it: by its path, or by the path at the upstream.
    after = load(source, path, {**routes, "b": {"path": "/b/{id}", "access": "public", "methods": ["POST"]}})
    assert set(after.owners.affected) == {"all-of-b", "b"}
    kept = {route.name for one, route in zip(before.table.routes, after.table.routes, strict=True) if one is route}
    assert kept == {"a", "all-of-b", "elsewhere"}
    after = load(source, path, {**routes, "elsewhere": {**routes["elsewhere"], "upstream": "one"}})
    assert set(after.owners.affected) == {"all-of-b", "b", "elsewhere"}
    # An upstream that moves to the address of another one.
    assert set(load(source, path, routes, two="http://one").owners.affected) == {"all-of-b", "b", "elsewhere"}


def test_numbers_and_texts_that_look_alike_are_changes(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    source = RoutesSource(path)
    claim: dict[str, Any] = {"access": {"claims": {"level": {"equals": 1}}}}
    load(source, path, {"a": claim})
    for value in (True, "1", 1):
        claim = {"access": {"claims": {"level": {"equals": value}}}}
        (found,) = load(source, path, {"a": claim}).file.routes
        assert found.requirements is not None
        assert type(found.requirements.claims["level"].equals) is type(value)
