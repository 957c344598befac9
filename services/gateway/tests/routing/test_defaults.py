"""`defaults` in the routes file: what holds for all routes that do not say otherwise."""

from pathlib import Path

import pytest

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.config import Route
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.policies import DEFAULT_CONNECT_SECONDS, DEFAULT_IDLE_SECONDS, Cors, RateLimit


def read(tmp_path: Path, defaults: str, *members: str, methods: str = "GET", access: str = "public") -> Route:
    """Load a file with defaults, in line 3, and one route, whose members begin in line 6."""
    path = tmp_path / "gateway.yaml"
    lines = [
        'upstreams: {up: {url: "http://up:1"}}',
        "defaults:",
        f"  {defaults}",
        "routes:",
        f"  - {{name: a, match: {{path: /a, methods: [{methods}]}}, upstream: up, access: {access},",
        *(f"     {member}," for member in members),
        "    }",
    ]
    path.write_text("\n".join(lines))
    (route,) = load_file(path, {}).routes
    return route


ORIGIN = 'cors: {origins: ["https://app.example"], credentials: true, max_age: 5}'


def test_a_route_has_the_defaults(tmp_path: Path) -> None:
    route = read(tmp_path, f"{{{ORIGIN}, timeouts: {{first_byte: 7}}, limits: {{body_bytes: 9}}}}")
    assert route.cors == Cors(origins=frozenset({"https://app.example"}), credentials=True, max_age=5)
    assert (route.timeouts.first_byte, route.timeouts.connect) == (7, DEFAULT_CONNECT_SECONDS)
    assert route.limits.body_bytes == 9


def test_mappings_are_merged_field_by_field(tmp_path: Path) -> None:
    route = read(tmp_path, "timeouts: {first_byte: 7, total: 60}", "timeouts: {first_byte: 8}")
    assert (route.timeouts.first_byte, route.timeouts.total, route.timeouts.idle) == (8, 60, DEFAULT_IDLE_SECONDS)
    # As if the route had said so, but for what neither says.
    assert route.timeouts.model_fields_set == {"first_byte", "total"}
    retries = read(tmp_path, "retries: {attempts: 2, statuses: [503]}", "retries: {attempts: 1}").retries
    assert retries is not None
    assert (retries.attempts, retries.statuses) == (1, frozenset({503}))


def test_lists_replace_the_default(tmp_path: Path) -> None:
    by_address = "rate_limits: [{by: address, requests: 1, seconds: 2}]"
    assert len(read(tmp_path, by_address).rate_limits) == 1
    assert read(tmp_path, by_address, "rate_limits: []").rate_limits == ()
    assert read(tmp_path, by_address, "rate_limits: [{by: address, requests: 3, seconds: 4}]").rate_limits == (
        RateLimit(by="address", requests=3, seconds=4),
    )


def test_lists_of_header_fields_replace_the_default(tmp_path: Path) -> None:
    fields = "{drop_headers: [X-A], pass_headers: [X-User-Id]}"
    route = read(tmp_path, fields, "drop_headers: [X-B]")
    assert (route.drop_headers, route.pass_headers) == (frozenset({"X-B"}), frozenset({"X-User-Id"}))


def test_a_route_may_be_without_cors_and_retries(tmp_path: Path) -> None:
    route = read(tmp_path, f"{{{ORIGIN}, retries: {{attempts: 1}}}}", "cors: none", "retries: none")
    assert (route.cors, route.retries) == (None, None)
    assert read(tmp_path, ORIGIN, "cors: null").cors is None


def test_origins_of_a_route_get_no_credentials_by_default(tmp_path: Path) -> None:
    route = read(tmp_path, ORIGIN, 'cors: {origins: ["https://partner.example"]}')
    assert route.cors == Cors(origins=frozenset({"https://partner.example"}))


def test_a_route_may_change_cors_without_naming_the_origins_again(tmp_path: Path) -> None:
    cors = read(tmp_path, ORIGIN, "cors: {expose: [X-Total]}").cors
    assert cors is not None
    assert (cors.origins, cors.credentials, cors.max_age) == (frozenset({"https://app.example"}), True, 5)
    assert cors.expose == {"X-Total"}


def test_defaults_hold_only_where_they_can(tmp_path: Path) -> None:
    assert read(tmp_path, "retries: {attempts: 1}", methods="POST").retries is None
    assert read(tmp_path, "retries: {attempts: 1}", methods="POST, PUT").retries is not None
    limits = "rate_limits: [{by: subject, requests: 1, seconds: 2}, {by: address, requests: 1, seconds: 2}]"
    assert [limit.by for limit in read(tmp_path, limits).rate_limits] == ["address"]
    assert [limit.by for limit in read(tmp_path, limits, access="authenticated").rate_limits] == ["subject", "address"]


@pytest.mark.parametrize(
    ("defaults", "member", "error"),
    [
        ("access: public", "cors: none", "3: defaults.access: unknown field"),
        ("cors: {credentials: true}", "cors: none", "3: defaults.cors.origins: required field is missing"),
        ('cors: {origins: ["https://a/"]}', "cors: none", "3: defaults.cors.origins[0]: must be "),
        ("timeouts: {idle: x}", "timeouts: {idle: 1}", "3: defaults.timeouts.idle: must be a number"),
        ("timeouts: {idle: 1}", "cors: {max_age: 1}", "6: routes[0].cors.origins: required field is missing"),
        (
            'cors: {origins: ["*"]}',
            "cors: {credentials: true}",
            "6: routes[0].cors: together with 'defaults': 'credentials' requires a list of origins instead of '*'",
        ),
        ("[]", "cors: none", "2: defaults: must be a mapping"),
        ("cors: off", "cors: none", "3: defaults.cors: must be a mapping"),
        (
            "rate_limits: [{by: address, requests: 1, seconds: 1}, {by: address, requests: 1, seconds: 1}]",
            "cors: none",
            "2: defaults: duplicate rate limit",
        ),
    ],
)
def test_an_error_names_the_line_that_is_at_fault(tmp_path: Path, defaults: str, member: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, defaults, member)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path}/gateway.yaml:{error}")
