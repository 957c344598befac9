"""Revocations at the gateway: strict routes, and ends of long responses."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from harness import (
    ClientSocket,
    Clock,
    GatewayHarness,
    ReceivedRequest,
    ReceivedResponse,
    RecordingUpstream,
    eventually,
    never,
    parse_responses,
    until,
)

from ostiary.errors import Revoked
from ostiary.feed import Kind
from ostiary.testing import Issuer
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.loader import load_file

ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: ping, match: {path: /ping, methods: [GET]}, upstream: up, access: public}
  - {name: normal, match: {path: /normal, methods: [GET]}, upstream: up, access: authenticated}
  - {name: strict, match: {path: /strict, methods: [GET]}, upstream: up, access: authenticated, max_staleness: 1.0}
  - {name: lax, match: {path: /lax, methods: [GET]}, upstream: up, access: authenticated, max_staleness: none}
"""


class Revoking:
    """A gateway in front of an upstream, with an issuer of its own, and a client."""

    def __init__(self, issuer: Issuer, harness: GatewayHarness, upstream: RecordingUpstream) -> None:
        self.issuer = issuer
        self.harness = harness
        self.upstream = upstream
        self.headers = {"Authorization": f"Bearer {issuer.token(subject='ada')}"}
        #: Lets the upstream's answer end.
        self.goes_on = asyncio.Event()

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.harness.client.get(path, headers={**self.headers, **headers})

    def knows_nothing_for(self, seconds: float) -> None:
        source = self.issuer.config().revocation_source
        assert source is not None
        source.revocations.fresh_at = source.revocations.now() - seconds

    async def open_stream(self, media_type: str) -> ClientSocket:
        """Ask for an answer that begins, and goes on when it is told to."""

        async def begin(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head.encode() + b"5\r\nfirst\r\n")
            lost, goes_on = (
                asyncio.create_task(request.connection.wait_closed()),
                asyncio.create_task(self.goes_on.wait()),
            )
            await asyncio.wait({lost, goes_on}, return_when=asyncio.FIRST_COMPLETED)
            if goes_on.done():
                writer.write(b"4\r\nlast\r\n0\r\n\r\n")
            for task in (lost, goes_on):
                task.cancel()
            await asyncio.gather(lost, goes_on, return_exceptions=True)

        self.upstream.response = begin
        line = await self.harness.connect()
        authorization = self.headers["Authorization"].encode()
        line.send(b"GET /normal HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nAuthorization: %b\r\n\r\n" % authorization)
        await line.wait_for(b"first")
        return line


@pytest.fixture
async def gateway(issuer: Issuer, upstream: RecordingUpstream) -> AsyncIterator[Revoking]:
    own = Issuer(private_key=issuer.private_key)
    async with GatewayHarness.open(ROUTES, upstream.url, own.verifier()) as harness:
        yield Revoking(own, harness, upstream)


async def ending(line: ClientSocket) -> ReceivedResponse:
    return parse_responses(await line.wait_closed())[0]


async def test_a_revoked_token_is_rejected(gateway: Revoking) -> None:
    assert (await gateway.get("/normal")).status_code == 200
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    refused = await gateway.get("/normal")
    assert (refused.status_code, refused.json()["code"]) == (401, Revoked.code)
    assert len(gateway.upstream.requests) == 1


@pytest.mark.parametrize(
    ("seconds", "statuses"),
    [(0.5, (200, 200, 200)), (2, (200, 503, 200)), (29, (200, 503, 200)), (31, (503, 503, 200))],
)
async def test_a_route_limits_the_age_of_revocation_data(
    gateway: Revoking, seconds: float, statuses: tuple[int, ...]
) -> None:
    gateway.knows_nothing_for(seconds)
    given = [await gateway.get(path) for path in ("/normal", "/strict", "/lax")]
    assert tuple(answer.status_code for answer in given) == statuses
    for answer in given:
        if answer.status_code == 503:
            assert (answer.json()["code"], answer.headers["Retry-After"]) == ("revocation_stale", "1")


async def test_a_known_revocation_holds_however_old_the_data_is(gateway: Revoking) -> None:
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    gateway.knows_nothing_for(100)
    assert [(await gateway.get(path)).status_code for path in ("/normal", "/strict", "/lax")] == [401, 401, 401]


async def test_an_event_stream_ends_when_its_token_is_revoked(gateway: Revoking) -> None:
    line = await gateway.open_stream("text/event-stream; charset=utf-8")
    gateway.issuer.revoke(Kind.SESSION, "somebody else's")
    await never(lambda: line.is_closed)
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    answer = await ending(line)
    assert (answer.body, answer.is_complete) == (b"first", False)
    await until(lambda: gateway.upstream.connections[0].is_closed)


async def test_other_responses_have_a_second_to_end(gateway: Revoking, clock: Clock) -> None:
    line = await gateway.open_stream("application/json")
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    await never(lambda: line.is_closed)
    clock.skip(0.2)
    await never(lambda: line.is_closed)
    gateway.goes_on.set()
    answer = await ending(line)
    assert (answer.body, answer.is_complete) == (b"firstlast", True)


async def test_other_responses_are_aborted_after_a_second(gateway: Revoking, clock: Clock) -> None:
    line = await gateway.open_stream("application/json")
    gateway.issuer.revoke(Kind.SUBJECT, "ada")
    await never(lambda: line.is_closed)
    clock.skip(1)
    answer = await ending(line)
    assert (answer.body, answer.is_complete) == (b"first", False)
    await until(lambda: gateway.upstream.connections[0].is_closed)


async def test_an_event_stream_ends_when_revocation_data_is_stale(gateway: Revoking) -> None:
    gateway.issuer.revoke(Kind.SESSION, "somebody's")
    gateway.knows_nothing_for(29.8)
    line = await gateway.open_stream("text/event-stream")
    await eventually(lambda: line.is_closed)
    answer = await ending(line)
    assert (answer.body, answer.is_complete) == (b"first", False)


@pytest.mark.parametrize("value", ["0", "0.1", "-1", "3601", "never", '"1.0"', "true", "null"])
def test_an_invalid_staleness_is_an_error_on_its_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(ROUTES.replace("max_staleness: 1.0", f"max_staleness: {value}"))
    with pytest.raises(ConfigError, match=r"gateway.yaml:6: "):
        load_file(path, {"UPSTREAM": "http://up:9000"})


def test_a_public_route_may_not_set_staleness(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(ROUTES.replace("access: public", "access: public, max_staleness: 1.0"))
    with pytest.raises(ConfigError, match=r"gateway.yaml:4: .*a public route takes no tokens"):
        load_file(path, {"UPSTREAM": "http://up:9000"})
