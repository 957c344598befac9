"""Which credentials routes take: the section `browser`, and the members of routes that depend on it."""

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.credentials import summary
from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.source import RoutesSource, load_routes

BROWSER = 'browser: {upstream: auth, trusted_origins: ["https://app.example", "https://*.b.example"], login_path: /in}'


def text(*members: str, browser: str = BROWSER, path: str = "/a", methods: str = "GET", upstream: str = "up") -> str:
    """Return a file with one route, in line 5, whose members begin in line 6."""
    lines = [
        'upstreams: {up: {url: "http://up:1"}, auth: {url: "http://auth:1"}}',
        "#",
        browser,
        "routes:",
        f"  - {{name: a, match: {{path: {path}, methods: [{methods}]}}, upstream: {upstream},",
        *(f"     {member}," for member in members),
        "    }",
    ]
    return "\n".join(lines)


def load(tmp_path: Path, content: str) -> RoutesFile:
    path = tmp_path / "gateway.yaml"
    path.write_text(content)
    return load_file(path, {})


def only_route(tmp_path: Path, *members: str, browser: str = BROWSER) -> Route:
    (route,) = load(tmp_path, text(*members, browser=browser)).routes
    return route


def error_of(tmp_path: Path, content: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    (line,) = str(caught.value).removeprefix(f"{tmp_path}/gateway.yaml:").splitlines()
    return line


@pytest.mark.parametrize("access", ["optional", "authenticated", "{scopes: [a]}"])
@pytest.mark.parametrize(
    ("browser", "members", "bearers", "cookies"),
    [
        (BROWSER, [], True, True),
        ("", [], True, False),
        (BROWSER, ["credentials: [bearer]"], True, False),
        (BROWSER, ["credentials: [cookie]"], False, True),
        (BROWSER, ["credentials: [cookie, bearer]"], True, True),
        ("", ["credentials: [bearer]"], True, False),
    ],
)
def test_a_route_takes_both_credentials_by_default_where_there_are_browser_sessions(
    tmp_path: Path, access: str, browser: str, members: list[str], *, bearers: bool, cookies: bool
) -> None:
    route = only_route(tmp_path, f"access: {access}", *members, browser=browser)
    assert (route.takes_bearers, route.takes_cookies) == (bearers, cookies)


def test_a_public_route_takes_no_credentials(tmp_path: Path) -> None:
    route = only_route(tmp_path, "access: public")
    assert (route.takes_bearers, route.takes_cookies, route.is_optional) == (False, False, False)


def test_only_an_optional_route_is_optional(tmp_path: Path) -> None:
    assert only_route(tmp_path, "access: optional", browser="").is_optional
    assert not only_route(tmp_path, "access: authenticated").is_optional


def test_browser_sessions_need_their_upstream_alone(tmp_path: Path) -> None:
    browser = load(tmp_path, text("access: authenticated", browser="browser: {upstream: auth}")).browser
    assert browser is not None
    assert (browser.upstream, browser.trusted_origins, browser.login_path) == ("auth", frozenset(), None)


def test_trusted_origins_are_compared_like_those_of_cors(tmp_path: Path) -> None:
    browser = load(tmp_path, text("access: authenticated")).browser
    assert browser is not None
    origins = ["https://app.example", "https://x.y.b.example", "https://b.example", "https://app.example:444", "null"]
    assert [browser.trusted.matches(each) for each in origins] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("browser", "error"),
    [
        ("browser: {}", "3: browser.upstream: required field is missing"),
        ("browser: {upstream: none}", "3: browser.upstream: unknown upstream 'none'"),
        ("browser: {upstream: auth, origins: []}", "3: browser.origins: unknown field"),
        ("browser: on", "3: browser: must be a mapping"),
        *(
            (f'browser: {{upstream: auth, trusted_origins: ["{origin}"]}}', "3: browser.trusted_origins[0]: " + error)
            for origin, error in {
                "*": "must be the origin of known pages",
                "null": "must be the origin of known pages",
                "file://": "must be the origin of known pages",
                "moz-extension://*": "must be the origin of known pages",
                "https://App.example": "must be in lower case: https://app.example",
                "https://app.example/": "must be without a trailing slash",
                "https://app.example:443": "must be without the scheme's own port",
                "https://b\u00fccher.example": "must have the host in ASCII: https://xn--bcher-kva.example",
            }.items()
        ),
        *(
            (f'browser: {{upstream: auth, login_path: "{path}"}}', "3: browser.login_path: must be a path")
            for path in [
                "login",
                "//evil.example",
                "/\\\\\\\\evil.example",
                "/in?x=1",
                "/in#x",
                "/%zz",
                "https://evil.example/",
            ]
        ),
    ],
)
def test_an_error_in_the_section_names_its_place(tmp_path: Path, browser: str, error: str) -> None:
    assert error_of(tmp_path, text("access: authenticated", browser=browser)).startswith(error)


@pytest.mark.parametrize(
    ("members", "browser", "error"),
    [
        (["access: authenticated", "credentials: [cookie]"], "", "7: routes[0].credentials: 'cookie' requires the sec"),
        (["access: authenticated", "credentials: []"], BROWSER, "7: routes[0].credentials: at least 1 items required"),
        (["access: authenticated", "credentials: [basic]"], BROWSER, "7: routes[0].credentials[0]: must be 'bearer'"),
        (["access: authenticated", "credentials: cookie"], BROWSER, "7: routes[0].credentials: must be a list"),
        (["access: authenticated", "login: redirect"], "", "7: routes[0].login: is for routes that take cookies"),
        (["access: authenticated", "embed: same-site"], "", "7: routes[0].embed: is for routes that take cookies"),
        (["access: authenticated", "login: page"], BROWSER, "7: routes[0].login: must be 'redirect'"),
        (["access: authenticated", "embed: all"], BROWSER, "7: routes[0].embed: must be 'same-site'"),
        (
            ["access: authenticated", "login: redirect"],
            "browser: {upstream: auth}",
            "7: routes[0].login: requires 'login_path' in the section 'browser'",
        ),
        *(
            (["access: public", member], BROWSER, f"5: routes[0]: a public route takes no credentials: '{name}' does")
            for name, member in {
                "credentials": "credentials: [bearer]",
                "login": "login: redirect",
                "embed": "embed: same-site",
            }.items()
        ),
        (["access: optional", "login: redirect"], BROWSER, "5: routes[0]: nobody has to log in for an optional route"),
        *(
            (
                ["access: authenticated", "credentials: [bearer]", f"{name}: {value}"],
                BROWSER,
                f"8: routes[0].{name}: is for routes that take cookies",
            )
            for name, value in {"login": "redirect", "embed": "same-site"}.items()
        ),
    ],
)
def test_an_error_in_a_route_names_its_place(tmp_path: Path, members: list[str], browser: str, error: str) -> None:
    assert error_of(tmp_path, text(*members, browser=browser)).startswith(error)


def test_the_auth_service_shares_no_route(tmp_path: Path) -> None:
    content = text("access: public", upstream="{up: 1, auth: 9}")
    assert error_of(tmp_path, content).startswith(
        "5: routes[0].upstream: the auth service of 'browser' shares no route"
    )
    assert load(tmp_path, content.replace(BROWSER, "")).routes


@pytest.mark.parametrize(("member", "error"), [("login: redirect", "'login' is"), ("embed: same-site", "'embed' is")])
def test_what_is_for_reading_requires_a_method_that_reads(tmp_path: Path, member: str, error: str) -> None:
    assert f"routes[0]: {error}" in error_of(tmp_path, text("access: authenticated", member, methods="POST, PUT"))


#: A request's credential, if it has one, and the roles of the person.
Person = tuple[str, frozenset[str]]

PEOPLE: list[Person] = [
    ("none", frozenset()),
    *product(
        ("bearer", "cookie", "embedded cookie"), map(frozenset[str], [[], ["admin"], ["clerk"], ["admin", "clerk"]])
    ),
]


def is_known(route: Route, person: Person) -> bool:
    """Return whether a route heeds a request's credential."""
    credential, _ = person
    if credential == "bearer":
        return route.takes_bearers
    return route.takes_cookies and (credential == "cookie" or (credential != "none" and route.embed is not None))


def is_admitted(route: Route, person: Person) -> bool:
    if route.is_public or route.is_optional:
        return True
    required = route.requirements.roles if route.requirements is not None else set()
    return is_known(route, person) and required <= person[1]


@st.composite
def routes(draw: st.DrawFn) -> Route:
    access = draw(st.sampled_from(["public", "optional", "authenticated", *[{"roles": each} for each in ROLES]]))
    members: dict[str, object] = {"name": "r", "upstream": "up", "access": access}
    credentials = draw(st.sampled_from([["bearer"], ["cookie"], ["bearer", "cookie"]]))
    if access != "public":
        members["credentials"] = credentials
        members["embed"] = draw(st.sampled_from([None, "same-site"] if "cookie" in credentials else [None]))
    return Route.model_validate({**members, "match": {"path": "/a", "methods": ["GET"]}})


ROLES = [["admin"], ["clerk"], ["admin", "clerk"]]


@given(routes(), routes())
def test_a_route_implies_access_to_another_if_that_admits_and_knows_the_same_people(one: Route, other: Route) -> None:
    implied = all(
        is_admitted(other, person) and (other.is_public or not is_known(one, person) or is_known(other, person))
        for person in PEOPLE
        if is_admitted(one, person)
    )
    assert one.implies_access_to(other) is implied


@given(routes(), routes())
def test_routes_that_admit_alike_imply_each_other(one: Route, other: Route) -> None:
    assert not one.admits_like(other) or (one.implies_access_to(other) and other.implies_access_to(one))
    assert one.admits_like(one)


class TestBypass:
    """A service sees the path that it gets, not how the gateway knew the person."""

    @pytest.mark.parametrize(
        ("guarded", "wider"),
        [
            ("access: authenticated, credentials: [bearer]", "access: authenticated"),
            ("access: authenticated, credentials: [cookie]", "access: authenticated"),
            ("access: authenticated, credentials: [bearer]", "access: {roles: [admin]}"),
            ("access: authenticated", "access: authenticated, embed: same-site"),
            ("access: authenticated", "access: optional"),
            ("access: authenticated", "access: public"),
            ("access: optional", "access: optional, embed: same-site"),
            ("access: optional, credentials: [bearer]", "access: optional"),
        ],
    )
    @pytest.mark.parametrize(
        "reach",
        [
            'match: {path: "/v1/{rest...}", methods: [GET]}, rewrite: "/{rest...}"',
            "match: {path: /a, methods: [GET], hosts: [h.example]}",
            "match: {path: /a/, methods: [GET]}",
        ],
    )
    def test_a_route_with_more_credentials_may_not_lead_to_the_path_of_one_with_fewer(
        self, tmp_path: Path, guarded: str, wider: str, reach: str
    ) -> None:
        assert len(self._load(tmp_path, guarded, f"{guarded}, {reach}").routes) == 2
        with pytest.raises(ConfigError, match=r"bypass route '\w+', which protects this path with other rules"):
            self._load(tmp_path, guarded, f"{wider}, {reach}")

    @pytest.mark.parametrize(
        ("guarded", "stricter"),
        [
            ("access: authenticated", "access: authenticated, credentials: [cookie]"),
            ("access: authenticated, embed: same-site", "access: authenticated"),
            ("access: optional", "access: {roles: [admin]}"),
            ("access: optional", "access: public"),
            ("access: public", "access: optional"),
            ("access: public", "access: authenticated, embed: same-site"),
        ],
    )
    def test_a_stricter_one_may(self, tmp_path: Path, guarded: str, stricter: str) -> None:
        reach = 'match: {path: "/v1/{rest...}", methods: [GET]}, rewrite: "/{rest...}"'
        assert len(self._load(tmp_path, guarded, f"{stricter}, {reach}").routes) == 2

    @pytest.mark.parametrize("other", ["credentials: [bearer]", "embed: same-site", "access: optional"])
    def test_routes_of_which_neither_contains_the_other_must_know_people_alike(
        self, tmp_path: Path, other: str
    ) -> None:
        members = other if "access" in other else f"access: authenticated, {other}"
        one = 'access: authenticated, match: {path: "/x/{id}", methods: [GET]}'
        with pytest.raises(ConfigError, match="lets /x/secret bypass"):
            self._load(
                tmp_path, "access: authenticated", one, f'{members}, match: {{path: "/{{k}}/secret", methods: [GET]}}'
            )

    def _load(self, tmp_path: Path, guarded: str, *others: str) -> RoutesFile:
        path = tmp_path / "gateway.yaml"
        lines = [
            'upstreams: {up: {url: "http://up:1"}, auth: {url: "http://auth:1"}}',
            "browser: {upstream: auth}",
            "routes:",
            f"  - {{name: guarded, upstream: up, match: {{path: /a, methods: [GET]}}, {guarded}}}",
            *(f"  - {{name: r{number}, upstream: up, {each}}}" for number, each in enumerate(others)),
        ]
        path.write_text("\n".join(lines))
        return load_routes(path)


class TestCors:
    @pytest.mark.parametrize(
        "origins",
        [
            '"https://app.example"',
            '"https://x.b.example", "https://app.example"',
            '"https://*.b.example"',
            '"https://*.c.b.example"',
        ],
    )
    def test_trusted_origins_may_get_credentials(self, tmp_path: Path, origins: str) -> None:
        cors = f"cors: {{origins: [{origins}], credentials: true}}"
        assert only_route(tmp_path, "access: authenticated", cors).cors

    @pytest.mark.parametrize(
        "origin",
        [
            "https://other.example",
            "https://b.example",
            "https://*.example",
            "https://*.app.example",
            "https://app.example:*",
            "http://app.example",
        ],
    )
    def test_others_may_not(self, tmp_path: Path, origin: str) -> None:
        cors = f'cors: {{origins: ["https://app.example", "{origin}"], credentials: true}}'
        error = error_of(tmp_path, text("access: authenticated", cors))
        assert error.startswith("7: routes[0].cors: 'credentials' requires origins within 'trusted_origins'")
        assert error.endswith(f"{origin} is not")

    def test_any_may_without_credentials(self, tmp_path: Path) -> None:
        assert only_route(tmp_path, "access: authenticated", 'cors: {origins: ["*"]}').cors

    @pytest.mark.parametrize(("members", "browser"), [(["credentials: [bearer]"], BROWSER), ([], "")])
    def test_other_cookies_than_those_of_the_session_are_nobodys_business(
        self, tmp_path: Path, members: list[str], browser: str
    ) -> None:
        cors = 'cors: {origins: ["https://other.example"], credentials: true}'
        assert only_route(tmp_path, "access: authenticated", *members, cors, browser=browser).cors

    def test_the_same_holds_for_the_login_itself(self, tmp_path: Path) -> None:
        cors = 'cors: {origins: ["https://other.example"], credentials: true}'
        assert "is not" in error_of(tmp_path, text("access: public", cors, upstream="auth"))
        assert only_route(tmp_path, "access: public", cors).cors

    def test_an_error_by_the_defaults_names_the_route(self, tmp_path: Path) -> None:
        defaults = 'defaults: {cors: {origins: ["https://other.example"], credentials: true}}'
        content = text("access: authenticated").replace("#", defaults)
        assert error_of(tmp_path, content).startswith("5: routes[0].cors: 'credentials' requires")


class TestSummary:
    ROUTES = """
    - {name: login, match: {path: /in, methods: [GET]}, upstream: up, access: public}
    - {name: home, match: {path: /, methods: [GET]}, upstream: up, access: optional}
    - {name: api, match: {path: /api, methods: [GET]}, upstream: up, access: authenticated, credentials: [bearer]}
    - {name: orders, match: {path: /orders, methods: [GET]}, upstream: up, access: authenticated, login: redirect}
    - {name: photo, match: {path: /photo, methods: [GET]}, upstream: up, access: authenticated, embed: same-site}
    """

    def _summary(
        self, tmp_path: Path, routes: str = ROUTES, browser: str = BROWSER, issuer: str = "https://gw.b.example"
    ) -> list[str]:
        upstreams = 'upstreams: {up: {url: "http://up:1"}, auth: {url: "http://auth:1"}}'
        return summary(load(tmp_path, f"{upstreams}\n{browser}\nroutes:{routes}"), issuer)

    def test_it_names_the_routes_that_browser_sessions_are_used_for(self, tmp_path: Path) -> None:
        assert self._summary(tmp_path) == [
            "browser sessions of upstream auth; trusted origins: https://*.b.example, https://app.example",
            "cookies count for: home, orders, photo",
            "https://app.example is of another site than this gateway: browsers send it no cookies",
            "without a session, pages lead to /in: orders",
            "pages of the same site may embed: photo",
        ]

    def test_without_browser_sessions_there_is_none(self, tmp_path: Path) -> None:
        assert summary(load(tmp_path, text("access: authenticated", browser="")), "") == []

    def test_it_has_only_what_there_is(self, tmp_path: Path) -> None:
        file = load(tmp_path, text("access: public", browser="browser: {upstream: auth}"))
        assert summary(file, "https://gw.example") == [
            "browser sessions of upstream auth; trusted origins: none",
            "cookies count for: none",
        ]
        assert file.unused_upstreams == []

    @pytest.mark.parametrize(
        ("issuer", "origins", "foreign"),
        [
            ("https://id.shop.example", ["https://app.shop.example", "https://*.shop.example:8443"], []),
            ("https://id.shop.example", ["https://app.other.example", "https://x.two"], [0, 1]),
            ("https://id.shop.co.uk", ["https://app.other.co.uk"], []),
            ("https://id.shop.example", ["http://app.shop.example", "capacitor://localhost"], [0, 1]),
            ("http://localhost:8080", ["http://localhost:*", "http://127.0.0.1:5173"], [1]),
            ("http://[::1]:8080", ["http://[::1]:5173"], []),
            ("http://127.0.0.1:8080", ["http://127.0.0.1:5173", "http://10.0.0.1:5173"], [1]),
        ],
    )
    def test_origins_to_which_browsers_send_no_cookies_are_named(
        self, tmp_path: Path, issuer: str, origins: list[str], foreign: list[int]
    ) -> None:
        browser = f"browser: {{upstream: auth, trusted_origins: {json.dumps(origins)}, login_path: /in}}"
        lines = self._summary(tmp_path, browser=browser, issuer=issuer)
        told = [line.partition(" is of another site")[0] for line in lines if "another site" in line]
        assert told == sorted(origins[each] for each in foreign)

    @pytest.mark.parametrize(
        ("path", "more", "is_open"),
        [
            ("/sessions/exchange", "", True),
            ("/{rest...}", "", True),
            ("/auth/{rest...}", ', rewrite: "/{rest...}"', True),
            ("/auth/{rest...}", "", False),
            ("/sessions/{id}/x", "", False),
        ],
    )
    def test_the_exchange_is_for_gateways_alone(self, tmp_path: Path, path: str, more: str, *, is_open: bool) -> None:
        route = f'\n    - {{name: a, match: {{path: "{path}", methods: [POST]}}, upstream: auth, access: public{more}}}'
        told = "/sessions/exchange is for gateways alone, and open to everybody by: a"
        assert (told in self._summary(tmp_path, route)) is is_open
        assert told not in self._summary(tmp_path, route.replace("auth,", "up,"))
        assert told not in self._summary(tmp_path, route.replace("POST", "GET"))

    @pytest.mark.parametrize(
        ("old", "new", "fault"),
        [
            ("path: /in,", "path: /elsewhere,", "/in: no route takes this login page"),
            ("methods: [GET]", "methods: [POST]", "/in: no route takes this login page"),
            (
                "access: public",
                "access: authenticated",
                "/in: nobody gets to this login page without a sess",
            ),
            ("path: /in,", "path: /in, hosts: [a.example],", "/in: no route takes this login page"),
            ("path: /orders,", 'path: /orders, hosts: ["*.example"],', None),
            ("path: /in,", 'path: "/{page}",', None),
            ("access: public", "access: optional", None),
        ],
    )
    def test_a_login_page_that_nobody_gets_to_is_named(
        self, tmp_path: Path, old: str, new: str, fault: str | None
    ) -> None:
        lines = self._summary(tmp_path, self.ROUTES.replace(old, new, 1))
        found = [each for each in lines if each.startswith("/in")]
        assert found == [] if fault is None else found[0].startswith(fault)


class TestIssuer:
    @pytest.mark.parametrize("issuer", ["https://id.example", "http://localhost:8080", "http://127.0.0.1:9"])
    def test_browser_sessions_need_https_but_on_this_machine(self, tmp_path: Path, issuer: str) -> None:
        path = tmp_path / "gateway.yaml"
        path.write_text(text("access: authenticated"))
        assert load_routes(path, issuer=issuer).browser

    def test_others_are_an_error_at_start_and_reload(self, tmp_path: Path) -> None:
        path = tmp_path / "gateway.yaml"
        path.write_text(text("access: authenticated", browser=""))
        source = RoutesSource(path, issuer="http://id.example")
        first = source.load()
        path.write_text(text("access: authenticated"))
        with pytest.raises(ConfigError, match="OSTIARY_ISSUER: browser sessions need an https issuer"):
            source.load()
        source.share(tmp_path)
        assert source.load_or_last(first) is first
