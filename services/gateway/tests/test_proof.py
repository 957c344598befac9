"""A routes file in which one rule gets around another one is refused before it serves."""

import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.paths import parse_template
from ostiary_gateway.policy import load_routes
from ostiary_gateway.proof import Tricks, common_path, contains, example, readings, that_may_meet
from ostiary_gateway.routes_file import Route, RoutesFile

ROOT = Path(__file__).parents[3]

FILE = """\
upstreams:
  one: {{url: "http://one:1"}}
  two: {{url: "http://two:2"}}
routes:
  - {{name: open, match: {{path: "{public}", methods: [GET]}}, upstream: one, access: public}}
  - {{name: closed, match: {{path: "{protected}", methods: [GET]}}, upstream: {upstream}, access: {{roles: [admin]}}}}
"""


def load(tmp_path: Path, public: str, protected: str, upstream: str = "one") -> RoutesFile:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.format(public=public, protected=protected, upstream=upstream))
    return load_routes(path)


@pytest.mark.parametrize(
    ("public", "protected"),
    [
        ("/pub", "/admin"),
        ("/pub/{rest...}", "/admin/{rest...}"),
        ("/{rest...}", "/admin/{rest...}"),
        ("/admin/health", "/admin/{rest...}"),
        ("/admin/{id}", "/admin/{id}/keys"),
        ("/{page}", "/admin"),
    ],
)
def test_rules_of_which_one_is_an_exception_to_the_other_are_good(tmp_path: Path, public: str, protected: str) -> None:
    assert len(load(tmp_path, public, protected).routes) == 2


@pytest.mark.parametrize(
    ("public", "protected", "path"),
    [
        ("/a/{id}", "/{kind}/secret", "/a/secret"),
        ("/a/{rest...}", "/{kind}/secret", "/a/secret"),
        ("/{kind}/open/{rest...}", "/admin/{a}/{b}", "/admin/open/x"),
    ],
)
def test_rules_that_cross_must_ask_for_the_same(tmp_path: Path, public: str, protected: str, path: str) -> None:
    with pytest.raises(ConfigError, match=rf"gateway.yaml:\d+: routes\[\d\]: lets {path} through"):
        load(tmp_path, public, protected)


def lax(raw_path: bytes) -> tuple[str, ...]:
    return tuple(raw_path.decode("latin-1")[1:].split("/"))


def test_a_public_rule_that_some_services_read_as_a_protected_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.paths.split", lax)
    with pytest.raises(ConfigError, match=r"gateway.yaml:5: routes\[0\]: lets /pub/x/\.\./\.\./admin through"):
        load(tmp_path, "/pub/{rest...}", "/admin")


def test_a_path_of_another_service_is_no_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary_gateway.paths.split", lax)
    assert len(load(tmp_path, "/pub/{rest...}", "/admin", "two").routes) == 2


templates = st.lists(st.sampled_from(["a", "b", "{x}"]), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "/".join([*parts, "{r...}"])])
)


paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6).map(tuple)


@given(templates, templates, paths)
def test_what_two_templates_share_is_found(one: str, other: str, path: tuple[str, ...]) -> None:
    first, second = parse_template(one), parse_template(other)
    shared = common_path(first, second)
    if first.matches(path) and second.matches(path):
        assert shared is not None
    if shared is not None:
        segments = tuple(shared[1:].split("/"))
        assert first.matches(segments)
        assert second.matches(segments)


@given(templates, templates, paths)
def test_a_template_that_contains_another_takes_all_its_paths(one: str, other: str, path: tuple[str, ...]) -> None:
    wide, narrow = parse_template(one), parse_template(other)
    if contains(wide, narrow) and narrow.matches(path):
        assert wide.matches(path)
    if narrow.matches(path) and not wide.matches(path):
        assert not contains(wide, narrow)


@given(st.lists(templates, max_size=6))
def test_all_routes_that_share_a_path_are_looked_at_together(texts: list[str]) -> None:
    routes = [
        Route.model_validate(
            {"name": f"r{number}", "match": {"path": text, "methods": ["GET"]}, "upstream": "up", "access": "public"}
        )
        for number, text in enumerate(texts)
    ]
    pairs = [frozenset({one.name, other.name}) for one, other in that_may_meet(routes)]
    assert len(set(pairs)) == len(pairs)
    for one, other in combinations(routes, 2):
        if common_path(one.match.template, other.match.template) is not None:
            assert {one.name, other.name} in pairs


@given(templates)
def test_an_example_fits_its_template(text: str) -> None:
    template = parse_template(text)
    assert template.matches(tuple(example(template)[1:].split("/")))
    assert contains(template, template)


def test_most_tricks_are_read_as_the_protected_path_by_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary_gateway.paths.split", lax)
    tricks = Tricks()
    made = [*tricks.alone("/admin/keys"), *tricks.together("/pub/x", "/admin/keys")]
    reached = [path for path in made if "/admin/keys" in readings(path)]
    assert len(made) > 200
    assert len(reached) > len(made) / 2


def test_the_shipped_files_are_good_and_the_schema_is_theirs() -> None:
    assert load_routes(ROOT / "deploy" / "gateway.yaml").routes
    published = json.loads((ROOT / "deploy" / "gateway.schema.json").read_text())
    assert published == RoutesFile.model_json_schema()


def test_the_schema_says_what_each_member_means_and_has_no_room_for_others() -> None:
    schema = RoutesFile.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        assert part["description"]
        assert part["additionalProperties"] is False
        for member in part["properties"].values():
            assert member["description"]
            assert "patternProperties" not in member or member["additionalProperties"] is False
