"""People without a session are led to the login page, and back to where they were."""

from collections.abc import AsyncIterator

import pytest
from harness import RecordingUpstream
from harness.sessions import SessionsHarness, open_sessions

from ostiary.testing import Issuer

NAVIGATION = "Sec-Fetch-Mode: navigate"


@pytest.fixture
async def it(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[SessionsHarness]:
    route = (
        "name: all, match: {path: '/{rest...}', methods: [GET]}, upstream: up, access: authenticated, login: redirect,"
        " allows_encoded: ['/', '//', ';']"
    )
    async with open_sessions(issuer, upstream, route) as harness:
        yield harness


async def test_a_login_page_that_asks_for_a_login_does_not_lead_to_itself(it: SessionsHarness) -> None:
    assert (await it.request("/account", NAVIGATION)).status == 303
    for target in ("/login", "/login?return_to=%2Faccount", "/%6Cogin"):
        assert (await it.request(target, NAVIGATION)).code == "missing_token"


@pytest.mark.parametrize(
    ("target", "return_to"),
    [
        ("/a/b", "%2Fa%2Fb"),
        ("/a?b=c&return_to=https://evil.example/#", None),
        ("/a?b=c&return_to=https://evil.example/", "%2Fa%3Fb%3Dc%26return_to%3Dhttps%3A%2F%2Fevil.example%2F"),
        ("/%C3%BC", "%2F%25C3%25BC"),
        ("/a%2Fb", "%2Fa%252Fb"),
        ("/a;b", "%2Fa%3Bb"),
        ("//evil.example/a", None),
        ("///evil.example/a", None),
        ("/%2Fevil.example", None),
        ("/a?\\evil.example", None),
        ("/a" + 2050 * "b", None),
        ("https://gw/a", "%2Fa"),
    ],
)
async def test_the_way_back_is_a_path_of_the_same_origin(
    it: SessionsHarness, target: str, return_to: str | None
) -> None:
    answer = await it.request(target, NAVIGATION)
    if target.endswith("#"):
        assert answer.status == 400
        return
    assert answer.status == 303
    assert answer.values("location") == ["/login" + (f"?return_to={return_to}" if return_to is not None else "")]
    assert (answer.values("cache-control"), answer.values("vary")) == (["no-store"], ["Cookie"])
    assert it.upstream.requests == []


@pytest.mark.parametrize(
    "target", ["/a\r\nSet-Cookie: x=y", "/a%0d%0aSet-Cookie:%20x=y", "/a?x=%0d%0aSet-Cookie:%20x=y"]
)
async def test_nothing_is_added_to_the_response(it: SessionsHarness, target: str) -> None:
    answer = await it.request(target, NAVIGATION)
    assert answer.values("set-cookie") == []
    for value in answer.values("location"):
        assert "%0d%0a" not in value.lower().replace("%250d%250a", "")
