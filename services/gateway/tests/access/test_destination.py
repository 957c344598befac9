"""What COPY and MOVE write to is a path of the request, too (RFC 4918 section 10.3)."""

from collections.abc import AsyncIterator

import pytest
from harness import GatewayHarness, RecordingUpstream
from route_files import bearer, open_gateway

from ostiary.testing import Issuer

ROUTES = [
    'name: files, match: {path: "/files/{rest...}", methods: [COPY, MOVE, GET]}, upstream: up, access: public',
    (
        'name: private, match: {path: "/files/private/{rest...}", methods: [COPY, MOVE]}, upstream: up,'
        " access: {roles: [admin]}"
    ),
    'name: read, match: {path: "/files/frozen/{rest...}", methods: [GET]}, upstream: up, access: public',
    (
        'name: dav, match: {path: "/dav/{rest...}", methods: [COPY, MOVE]}, upstream: up, access: public,'
        ' rewrite: "/{rest...}"'
    ),
    'name: mine, match: {path: "/mine/{rest...}", methods: [MOVE]}, upstream: own, access: public',
    (
        'name: quiet, match: {path: "/quiet/{rest...}", methods: [MOVE]}, upstream: up, access: public,'
        " drop_headers: [Destination]"
    ),
]
UPSTREAMS = '  own: {url: "${UPSTREAM}", host: files.internal}\n'


@pytest.fixture
async def harness(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[GatewayHarness]:
    async with open_gateway(issuer, upstream, *ROUTES, upstreams=UPSTREAMS) as harness:
        yield harness


@pytest.mark.parametrize(
    ("target", "destination", "received"),
    [
        ("/files/a", "http://gw/files/b", "http://gw/files/b"),
        ("/files/a", "/files/b", "/files/b"),
        # The scheme and port are those of the client's side; proxies before the gateway change them.
        ("/files/a", "https://gw/files/b", "https://gw/files/b"),
        ("/files/a", "HTTP://GW:8080/files/b", "HTTP://gw/files/b"),
        ("/files/a", "http://gw/files/%c3%a4%62 [1]".replace(" ", "%20"), "http://gw/files/%C3%A4b%20%5B1%5D"),
        ("/files/a", "http://gw/files/b/", "http://gw/files/b/"),
        # As the request's own path.
        ("/dav/a", "http://gw/dav/files/b", "http://gw/files/b"),
        ("/dav/a", "http://gw/files/b", "http://gw/files/b"),
        ("/mine/a", "http://gw/mine/b", "http://files.internal/mine/b"),
    ],
)
async def test_a_service_gets_the_destination_as_it_gets_the_path(
    harness: GatewayHarness, upstream: RecordingUpstream, target: str, destination: str, received: str
) -> None:
    response = await harness.request(target, f"Destination: {destination}", "Overwrite: F", method="MOVE")
    assert response.status == 200
    assert upstream.last.values("destination") == [received]
    assert upstream.last.values("overwrite") == ["F"]


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
@pytest.mark.parametrize(
    "destination",
    [
        "http://gw/files/private/b",
        "/files/private/b",
        "/files/%70rivate/b",
        # To some services, these are the same.
        "/files/private./b",
        "/dav/files/private/b",
    ],
)
async def test_the_access_of_the_destination_applies_too(
    issuer: Issuer, harness: GatewayHarness, upstream: RecordingUpstream, method: str, destination: str
) -> None:
    lines = [f"Destination: {destination}"]
    assert (await harness.request("/files/a", *lines, method=method)).status == 401
    user, admin = (bearer(issuer.token(roles=[role])) for role in ("user", "admin"))
    assert (await harness.request("/files/a", *lines, user, method=method)).status == 403
    assert upstream.requests == []
    assert (await harness.request("/files/a", *lines, admin, method=method)).status == 200


@pytest.mark.parametrize(
    ("destination", "status", "code"),
    [
        ("http://elsewhere.example/files/b", 403, "foreign_destination"),
        ("http://gw@elsewhere.example/files/b", 403, "foreign_destination"),
        ("http://user@gw/files/b", 403, "foreign_destination"),
        ("/mine/b", 403, "foreign_destination"),
        ("", 400, "invalid_destination"),
        ("files/b", 400, "invalid_destination"),
        ("http://gw", 400, "invalid_destination"),
        ("ftp://gw/files/b", 400, "invalid_destination"),
        ("/files/b?x", 400, "invalid_destination"),
        ("/files/b#x", 400, "invalid_destination"),
        ("//gw/files/b", 400, "encoded_character"),
        ("/files/../b", 400, "ambiguous_path"),
        ("/files/x%2Fb", 400, "encoded_character"),
        ("/nothing/b", 404, "not_found"),
        ("/files/frozen/b", 405, "method_not_allowed"),
    ],
)
async def test_other_destinations_are_rejected(
    harness: GatewayHarness, upstream: RecordingUpstream, destination: str, status: int, code: str
) -> None:
    response = await harness.request("/files/a", f"Destination: {destination}", method="MOVE")
    assert (response.status, response.code) == (status, code)
    assert upstream.requests == []


async def test_several_destinations_are_rejected(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    lines = ["Destination: /files/b", "Destination: /files/private/b"]
    response = await harness.request("/files/a", *lines, method="MOVE")
    assert (response.status, response.code) == (400, "invalid_destination")
    assert upstream.requests == []


async def test_the_field_means_nothing_to_other_methods(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    assert (await harness.request("/files/a", "Destination: Paris")).status == 200
    assert upstream.last.values("destination") == ["Paris"]


async def test_a_route_may_drop_it(harness: GatewayHarness, upstream: RecordingUpstream) -> None:
    assert (await harness.request("/quiet/a", "Destination: /quiet/b", method="MOVE")).status == 200
    assert upstream.last.values("destination") == []
