"""Reload of the routes file: as a whole, between two requests, or not at all."""

import asyncio
import gc
import json
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from harness import (
    PATIENCE,
    GatewayHarness,
    PausedResponse,
    ReceivedRequest,
    RecordingUpstream,
    parse_responses,
    short_directory,
    until,
)
from route_files import errors_of, open_gateway

from ostiary.feed import Kind
from ostiary.testing import Issuer
from ostiary_gateway.routing.bypass_check import IndexedRoutes
from ostiary_gateway.routing.overlap import OwnerIndex
from ostiary_gateway.routing.source import RoutesSource
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.runtime import Runtime
from ostiary_gateway.upstream.cluster import Cluster

OLD = "  - {name: old, match: {path: /old, methods: [GET]}, upstream: up, access: public}\n"
NEW = "  - {name: new, match: {path: /new, methods: [GET]}, upstream: up, access: public}\n"


def text(routes: str, **upstreams: str) -> str:
    lines = "".join(f'  {name}: {{url: "{url}"}}\n' for name, url in upstreams.items())
    return f"upstreams:\n{lines}routes:\n{routes}"


@dataclass
class Changing:
    """A gateway whose routes file changes."""

    harness: GatewayHarness
    upstream: RecordingUpstream
    path: Path

    @property
    def runtime(self) -> Runtime:
        return self.harness.gateway.runtime

    async def write(self, routes: str, **upstreams: str) -> list[dict[str, object]]:
        """Change the file, have it read, and return what was logged."""
        self.path.write_text(text(routes, **{"up": self.upstream.url, **upstreams}))
        return await self.read()

    async def read(self) -> list[dict[str, object]]:
        with structlog.testing.capture_logs() as logged:
            self.runtime.reload()
            assert self.runtime._task is not None
            await self.runtime._task
        return [dict(entry) for entry in logged]

    async def tick(self) -> None:
        """Have the gateway look whether the file has changed."""
        self.runtime.on_tick(self.runtime._next_poll + 1)
        if self.runtime._poll is not None:
            await self.runtime._poll

    async def status(self, target: str, *lines: str) -> int:
        return (await self.harness.request(target, *lines)).status


@pytest.fixture
async def changing(issuer: Issuer, upstream: RecordingUpstream, tmp_path: Path) -> AsyncIterator[Changing]:
    async with GatewayHarness.open(text(OLD, up="${UPSTREAM}"), upstream.url, issuer.verifier()) as harness:
        it = Changing(harness, upstream, tmp_path / "gateway.yaml")
        it.path.write_text(text(OLD, up=upstream.url))
        it.runtime._source = RoutesSource(it.path)
        it.runtime._source.load()
        yield it


async def test_a_cached_request_is_decided_by_the_current_routes(changing: Changing, issuer: Issuer) -> None:
    line = await changing.harness.connect()
    same = f"GET /old HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {issuer.token()}\r\n\r\n".encode()
    for number, access in enumerate(["public", "authenticated", "{roles: [admin]}", "public"], 1):
        await changing.write(OLD.replace("public", access))
        line.send(same)
        await line.wait_for(b"HTTP/1.1 ", number)
    line.send(b"GET /old HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")
    assert [each.status for each in parse_responses(await line.wait_closed(), *["GET"] * 5)] == [
        200,
        200,
        403,
        200,
        200,
    ]


async def test_a_reload_applies_to_the_next_request_of_a_connection(changing: Changing) -> None:
    line = await changing.harness.connect()
    for target in (b"/old", b"/new"):
        line.send(b"GET %b HTTP/1.1\r\nHost: gw\r\n\r\n" % target)
    await line.wait_for(b"not_found")
    assert [each.status for each in parse_responses(line.received, "GET", "GET")] == [200, 404]
    line.received = b""
    logged = await changing.write(NEW)
    for target in (b"/new", b"/old"):
        line.send(b"GET %b HTTP/1.1\r\nHost: gw\r\n\r\n" % target)
    await line.wait_for(b"not_found")
    assert [each.status for each in parse_responses(line.received, "GET", "GET")] == [200, 404]
    assert [(entry["event"], entry["log_level"], entry["routes"]) for entry in logged] == [
        ("routes reloaded", "info", 1)
    ]


async def test_a_change_is_noticed_by_polling(changing: Changing) -> None:
    changing.path.write_text(text(OLD + NEW, up=changing.upstream.url))
    await changing.tick()
    assert changing.runtime._task is not None
    await changing.runtime._task
    assert await changing.status("/new") == 200
    before = changing.runtime.current
    await changing.tick()
    assert changing.runtime._task.done()
    assert changing.runtime.current is before


async def test_a_reload_may_change_access(changing: Changing, issuer: Issuer) -> None:
    assert await changing.status("/old") == 200
    await changing.write(OLD.replace("access: public", "access: {roles: [admin]}"))
    assert await changing.status("/old") == 401
    assert await changing.status("/old", f"Authorization: Bearer {issuer.token(roles=['admin'])}") == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"routes: [",
        b"\xff\xfe",
        b"upstreams:\n  up: {url: nowhere}\nroutes: []\n",
        b'upstreams:\n  up: {url: "unix:/x"}\nroutes: []\n',
        text(NEW.replace("upstream: up", "upstream: other"), up="unix:/x").encode(),
        text(NEW.replace("access: public", "access: everybody"), up="unix:/x").encode(),
        text(NEW + NEW, up="unix:/x").encode(),
        text(NEW, up="${NOT_SET_ANYWHERE}").encode(),
        b"[" * 600,
    ],
)
async def test_an_invalid_file_changes_nothing(changing: Changing, content: bytes) -> None:
    before = changing.runtime.current
    changing.path.write_bytes(content)
    logged = await changing.read()
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [("routes file rejected", "error")]
    assert "gateway.yaml" in str(logged[0]["error"])
    assert changing.runtime.current is before
    assert [await changing.status("/old"), await changing.status("/new")] == [200, 404]
    # The next one that is good counts.
    await changing.write(NEW)
    assert await changing.status("/new") == 200


async def test_an_unreadable_file_changes_nothing(changing: Changing) -> None:
    changing.path.unlink()
    assert [entry["log_level"] for entry in await changing.read()] == ["error"]
    changing.path.mkdir()
    assert [entry["log_level"] for entry in await changing.read()] == ["error"]
    assert await changing.status("/old") == 200
    changing.path.rmdir()
    await changing.write(NEW)
    assert await changing.status("/new") == 200


async def test_an_invalid_file_is_reported_once(changing: Changing) -> None:
    changing.path.write_text("")
    await changing.tick()
    reading = changing.runtime._task
    assert reading is not None
    await reading
    await changing.tick()
    assert changing.runtime._task is reading


async def test_a_removed_upstream_finishes_its_responses(changing: Changing) -> None:
    held = PausedResponse(first=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst", then=b"last")
    changing.upstream.response = held
    line = await changing.harness.connect()
    line.send(b"GET /old HTTP/1.1\r\nHost: gw\r\n\r\n")
    await line.wait_for(b"first")
    with short_directory() as directory:
        async with RecordingUpstream(directory / "up") as other:
            await changing.write(NEW, up=other.url)
            assert await changing.status("/new") == 200
            held.resume()
            await line.wait_for(b"firstlast")
            assert parse_responses(line.received)[0].is_complete
            # Its connection is not kept for anybody.
            await until(lambda: changing.upstream.connections[0].is_closed)
            line.received = b""
            line.send(b"GET /new HTTP/1.1\r\nHost: gw\r\n\r\n")
            await line.wait_for(b'"target"')
            assert [each.target for each in other.requests] == ["/new", "/new"]
            assert len(changing.upstream.requests) == 1


async def test_a_request_in_progress_keeps_its_routes(changing: Changing) -> None:
    """A body that is still coming belongs to a request that was admitted before."""
    await changing.write(OLD.replace("[GET]", "[POST]"))
    line = await changing.harness.connect()
    line.send(b"POST /old HTTP/1.1\r\nHost: gw\r\nContent-Length: 6\r\n\r\nhal")
    await until(lambda: changing.upstream.requests)
    await changing.write(NEW)
    line.send(b"ves")
    await line.wait_for(b'"target"')
    (answer,) = parse_responses(line.received, "POST")
    assert json.loads(answer.body) == {"target": "/old", "body": "halves"}


async def test_an_unchanged_upstream_keeps_its_connections(changing: Changing) -> None:
    assert await changing.status("/old") == 200
    await changing.write(NEW)
    assert await changing.status("/new") == 200
    assert len(changing.upstream.connections) == 1


async def test_idle_connections_of_a_removed_upstream_are_closed(changing: Changing) -> None:
    assert await changing.status("/old") == 200
    await changing.write(NEW, up="unix:/nowhere")
    await until(lambda: changing.upstream.connections[0].is_closed)
    assert await changing.status("/new") == 503


async def test_removed_upstreams_are_freed_after_their_last_response(changing: Changing) -> None:
    async def answer_late(request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        if request.target != "/health":
            await may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    changing.upstream.response = answer_late
    for number in range(6):
        may_answer = asyncio.Event()
        before = len(changing.upstream.requests)
        pending = [asyncio.create_task(changing.status("/old")) for _ in range(10)]
        await until(lambda before=before: len(changing.upstream.requests) > before)  # type: ignore[misc]  # a default
        # Each time it is another one: of so many connections, for which some have to wait.
        of_it = f"connections: {number + 3}, health: {{path: /health, seconds: 0.1}}"
        changing.path.write_text(text(OLD, up=changing.upstream.url).replace('"}', f'", {of_it}}}', 1))
        await changing.read()
        may_answer.set()
        assert set(await asyncio.gather(*pending)) == {200}
    (pool,) = changing.harness.upstream().pools
    await until(lambda: sizes_of_upstreams() & set(range(3, 9)) == {8})
    await until(lambda: sum(not each.is_closed for each in changing.upstream.connections) == pool.idle)


def sizes_of_upstreams() -> set[int]:
    """Return how many connections those upstreams may have that are kept by anybody."""
    gc.collect()
    return {each.config.connections for each in gc.get_objects() if type(each) is Cluster}


async def test_an_unchanged_rate_limit_keeps_its_counts(changing: Changing) -> None:
    def limited(requests: int) -> str:
        limit = f"rate_limits: [{{by: address, requests: {requests}, seconds: 1000}}]"
        return OLD.replace("access: public", f"access: public, {limit}")

    await changing.write(limited(2))
    assert [await changing.status("/old") for _ in range(2)] == [200, 200]
    await changing.write(limited(2) + NEW)
    assert [await changing.status("/new"), await changing.status("/old")] == [200, 429]
    changing.path.write_text("")
    await changing.read()
    assert await changing.status("/old") == 429
    # Another limit is another count.
    await changing.write(limited(3))
    assert [await changing.status("/old") for _ in range(4)] == [200, 200, 200, 429]


async def test_a_reload_keeps_revocations(issuer: Issuer, upstream: RecordingUpstream, tmp_path: Path) -> None:
    own = Issuer(issuer.issuer, private_key=issuer.private_key)
    routes = OLD.replace("access: public", "access: authenticated")
    async with GatewayHarness.open(text(routes, up="${UPSTREAM}"), upstream.url, own.verifier()) as harness:
        it = Changing(harness, upstream, tmp_path / "gateway.yaml")
        it.runtime._source = RoutesSource(it.path)
        token = f"Authorization: Bearer {own.token(subject='ada')}"
        assert await it.status("/old", token) == 200
        own.revoke(Kind.SUBJECT, "ada")
        await it.write(routes + NEW)
        assert await it.status("/old", token) == 401


async def test_a_reload_during_a_load_loads_once_more(changing: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first load may have read the version before the change."""
    read, may_go_on = threading.Event(), threading.Event()
    load = RoutesSource.load

    def slow(source: RoutesSource) -> IndexedRoutes:
        routes = load(source)
        read.set()
        assert may_go_on.wait(PATIENCE)
        return routes

    monkeypatch.setattr(RoutesSource, "load", slow)
    changing.runtime.reload()
    reading = changing.runtime._task
    assert reading is not None
    await asyncio.to_thread(read.wait, PATIENCE)
    changing.path.write_text(text(NEW, up=changing.upstream.url))
    changing.runtime.reload()
    may_go_on.set()
    await reading
    assert [await changing.status("/old"), await changing.status("/new")] == [404, 200]


async def test_a_reload_is_possible_after_a_load_that_failed_unexpectedly(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RoutesSource) -> IndexedRoutes:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(RoutesSource, "load", fail)
        changing.runtime.reload()
        assert changing.runtime._task is not None
        with pytest.raises(ZeroDivisionError):
            await changing.runtime._task
    await changing.write(NEW)
    assert await changing.status("/new") == 200


async def test_upstreams_get_requests_by_weight(
    issuer: Issuer, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary_gateway.runtime.random", random.Random(11))  # noqa: S311 - the same each time
    with short_directory() as directory:
        async with RecordingUpstream(directory / "canary") as canary:
            route = "name: a, match: {path: /a, methods: [GET]}, upstream: {up: 9, canary: 3}, access: public"
            more = f'  canary: {{url: "{canary.url}"}}\n'
            async with open_gateway(issuer, upstream, route, upstreams=more) as it:
                for _ in range(400):
                    assert (await it.client.get("/a")).status_code == 200
                assert len(upstream.requests) + len(canary.requests) == 400
                assert 75 < len(canary.requests) < 125


def test_invalid_weights_are_errors(tmp_path: Path) -> None:
    for shares in ("{up: 1, other: 1}", "{up: 1}", "{up: 0, up2: 1}"):
        text = f"name: a, match: {{path: /a, methods: [GET]}}, upstream: {shares}, access: public"
        assert "gateway.yaml:4: " in errors_of(tmp_path, text)


async def test_a_file_system_that_does_not_answer_holds_up_no_request(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    source = changing.runtime._source
    assert source is not None
    monkeypatch.setattr(source, "has_changed", lambda: answered.wait() and False)
    for _ in range(3):
        changing.runtime.on_tick(changing.runtime._next_poll + 1)
    assert await changing.status("/old") == 200
    assert changing.runtime._poll is not None
    assert not changing.runtime._poll.done()
    answered.set()
    await changing.runtime._poll


async def test_routes_are_checked_and_indexed_off_the_event_loop(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def watched(*args: Any) -> OwnerIndex:
        threads.append(threading.current_thread())
        return OwnerIndex(*args)

    monkeypatch.setattr("ostiary_gateway.routing.bypass_check.OwnerIndex", watched)
    await changing.write(NEW)
    assert await changing.status("/new") == 200
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_replaced_route_table_is_freed_without_the_garbage_collector(changing: Changing) -> None:
    await changing.write(OLD)
    assert await changing.status("/old") == 200
    # Compiled classes have no weak references.
    table = id(changing.runtime.current.table)
    gc.disable()
    try:
        await changing.write(OLD + NEW)
        assert await changing.status("/new") == 200
        await until(lambda: table not in {id(each) for each in gc.get_objects() if type(each) is RouteTable})
    finally:
        gc.enable()
