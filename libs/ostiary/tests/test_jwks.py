"""The key set behind a JWKS endpoint: refreshed in the background, kept through outages, read from memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx
import pytest

from ostiary import KeySet, RemoteKeys, _jwks, errors
from ostiary._clock import suspend_aware_clock
from ostiary.testing import Issuer

URL = "https://issuer.example/.well-known/jwks.json"


class Endpoint:
    """A JWKS endpoint with a configurable answer, which records its requests."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.asked = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked.set()
        return self.answer(request)

    async def next_request(self) -> None:
        self.asked.clear()
        await asyncio.wait_for(self.asked.wait(), 60)

    def keys(self, clock: Callable[[], float] = suspend_aware_clock) -> RemoteKeys:
        return RemoteKeys("https://issuer.example", URL, transport=httpx.MockTransport(self), clock=clock)


def document(body: bytes, status: int = 200, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    fields = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return lambda _: httpx.Response(status, stream=httpx.ByteStream(body), headers=fields)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use delays of milliseconds instead of minutes."""
    monkeypatch.setattr(_jwks, "MIN_FRESH", 0.002)
    monkeypatch.setattr(_jwks, "UNKNOWN_KEY_COOLDOWN", 0.002)
    monkeypatch.setattr(_jwks, "RETRY_DELAYS_WITH_KEYS", (0.001, 0.002))
    monkeypatch.setattr(_jwks, "RETRY_DELAYS_WITHOUT_KEYS", (0.001, 0.002))


async def test_keys_are_there_once_entered(issuer: Issuer) -> None:
    endpoint = Endpoint(document(issuer.jwks()))
    async with endpoint.keys() as keys:
        assert list(keys.current().keys) == [issuer.kid]
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        document(b"", 500),
        document(b"", 404),
        document(b"", 302, Location="https://evil.example/jwks.json"),
        document(b"{}"),
        document(b'{"keys":[]}'),
        document(b'{"keys":['),
        document(b"x" * (256 * 1024 + 1)),
        document(b"<html></html>", Content_Type="text/html"),
        document(b"", 304),
    ],
)
async def test_an_unusable_response_leaves_no_keys(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    endpoint = Endpoint(answer)
    async with endpoint.keys() as keys:
        with pytest.raises(errors.KeysUnavailable):
            keys.current()
    assert {request.url.host for request in endpoint.requests} == {"issuer.example"}


async def test_keys_of_several_servers_come_from_the_next_when_one_fails(issuer: Issuer) -> None:
    endpoint = Endpoint(document(issuer.jwks()))

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a.example":
            raise httpx.ConnectError("away")
        return await endpoint(request)

    urls = ["https://a.example/jwks", "https://b.example/jwks"]
    async with RemoteKeys("https://issuer.example", urls, transport=httpx.MockTransport(answer)) as keys:
        assert list(keys.current().keys) == [issuer.kid]
    assert [request.url.host for request in endpoint.requests] == ["b.example"]


@pytest.mark.usefixtures("impatient")
async def test_a_cold_start_during_an_outage_recovers(issuer: Issuer) -> None:
    endpoint = Endpoint(document(b"", 503))
    async with endpoint.keys() as keys:
        await endpoint.next_request()
        endpoint.answer = document(issuer.jwks())
        await endpoint.next_request()
        await settles(lambda: list(keys.current().keys) == [issuer.kid])


@pytest.mark.usefixtures("impatient")
async def test_an_outage_keeps_the_current_keys(issuer: Issuer) -> None:
    endpoint = Endpoint(document(issuer.jwks(), Cache_Control="max-age=0"))
    async with endpoint.keys() as keys:
        endpoint.answer = document(b"", 503)
        for _ in range(3):
            await endpoint.next_request()
        assert list(keys.current().keys) == [issuer.kid]


@pytest.mark.usefixtures("impatient")
async def test_a_removed_key_is_gone_with_the_next_refresh(issuer: Issuer) -> None:
    other = Issuer(kid="other")
    endpoint = Endpoint(document(issuer.jwks(), Cache_Control="max-age=0"))
    async with endpoint.keys() as keys:
        endpoint.answer = document(other.jwks())
        await settles(lambda: list(keys.current().keys) == ["other"])


async def test_keys_past_the_hard_cap_are_discarded(issuer: Issuer) -> None:
    now = 0.0
    endpoint = Endpoint(document(issuer.jwks()))
    async with endpoint.keys(clock=lambda: now) as keys:
        now = _jwks.HARD_CAP
        assert keys.current() is not None
        now = _jwks.HARD_CAP + 1
        with pytest.raises(errors.KeysUnavailable):
            keys.current()


@pytest.mark.usefixtures("impatient")
async def test_a_set_that_did_not_change_is_not_sent_again(issuer: Issuer) -> None:
    endpoint = Endpoint(document(issuer.jwks(), ETag='"1"', Cache_Control="max-age=0"))
    async with endpoint.keys() as keys:
        before = keys.current()
        endpoint.answer = document(b"", 304)
        await endpoint.next_request()
        await endpoint.next_request()
        assert endpoint.requests[-1].headers["If-None-Match"] == '"1"'
        assert keys.current() is before


@dataclass
class Clock:
    """A clock that is set by hand, and counts how often it is read."""

    now: float = 0.0
    reads: int = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now

    async def is_read_again(self) -> None:
        """Wait until the refresher has looked several times whether it is due."""
        before = self.reads
        await settles(lambda: self.reads >= before + 6)


@pytest.mark.parametrize("status", [200, 500])
async def test_unknown_keys_cause_one_fetch_in_thirty_seconds(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(_jwks, "MAX_SLICE", 0.001)
    monkeypatch.setattr(_jwks, "ANNOUNCED_COOLDOWN", 0.0)
    clock = Clock()
    endpoint = Endpoint(document(issuer.jwks(), Cache_Control="max-age=3600"))
    async with endpoint.keys(clock) as keys:
        endpoint.answer = document(issuer.jwks(), status, Cache_Control="max-age=3600")
        for fetches in (1, 2, 3):
            for _ in range(1000):
                keys.report_unknown_key()
            clock.now += 29.9
            await clock.is_read_again()
            assert len(endpoint.requests) == fetches
            clock.now += 0.1
            await settles(lambda: len(endpoint.requests) == fetches + 1)  # noqa: B023 - done within the iteration


@pytest.mark.usefixtures("impatient")
async def test_an_unknown_key_makes_the_refresh_come_early(issuer: Issuer) -> None:
    endpoint = Endpoint(document(issuer.jwks(), Cache_Control="max-age=3600"))
    async with endpoint.keys() as keys:
        keys.report_unknown_key()
        await endpoint.next_request()
    assert len(endpoint.requests) == 2


async def test_an_endpoint_that_hangs_times_out(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jwks, "FETCH_TIMEOUT", 0.01)

    async def drip() -> AsyncIterator[bytes]:
        for byte in issuer.jwks():
            yield bytes([byte])
            await asyncio.sleep(0.005)

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drip(), headers={"Content-Type": "application/json"})

    async with Endpoint(answer).keys() as keys:
        with pytest.raises(errors.KeysUnavailable):
            keys.current()


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("public, max-age=300", 300),
        ("max-age=600", 600),
        ("MAX-AGE=600", 600),
        ("max-age=1", _jwks.MIN_FRESH),
        ("max-age=999999999", _jwks.MAX_FRESH),
        ("s-maxage=700", _jwks.DEFAULT_FRESH),
        ("max-age=-5", _jwks.DEFAULT_FRESH),
        ("no-store", _jwks.DEFAULT_FRESH),
        ("", _jwks.DEFAULT_FRESH),
    ],
)
def test_freshness_follows_cache_control_within_bounds(cache_control: str, seconds: float) -> None:
    assert _jwks._freshness(cache_control) == seconds


async def settles(condition: Callable[[], bool]) -> None:
    """Wait until a background task has done its part."""

    async def poll() -> None:
        while True:
            try:
                if condition():
                    return
            except errors.KeysUnavailable:
                pass
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 60)


def test_a_key_set_is_a_value(issuer: Issuer) -> None:
    with pytest.raises(AttributeError):
        KeySet.from_json(issuer.jwks()).keys = {}  # type: ignore[misc]  # what is tried here is not allowed


def test_a_source_can_be_entered_again_in_another_loop(issuer: Issuer) -> None:
    endpoint = Endpoint(document(issuer.jwks()))
    keys = endpoint.keys()

    async def use() -> list[str]:
        async with keys:
            keys.report_unknown_key()
            return list(keys.current().keys)

    for _ in range(2):
        assert asyncio.run(use()) == [issuer.kid]
    keys.report_unknown_key()


@pytest.mark.parametrize("etag", ['"\u00e9"', "unquoted", '"a"b"', f'"{"x" * 300}"', '"a b"'])
@pytest.mark.usefixtures("impatient")
async def test_a_malformed_validator_is_not_sent_back(issuer: Issuer, etag: str) -> None:
    fields = [
        (b"Content-Type", b"application/json"),
        (b"Cache-Control", b"max-age=0"),
        (b"ETag", etag.encode("latin-1")),
    ]
    endpoint = Endpoint(lambda _: httpx.Response(200, stream=httpx.ByteStream(issuer.jwks()), headers=fields))
    async with endpoint.keys():
        await endpoint.next_request()
        await endpoint.next_request()
    assert all("If-None-Match" not in request.headers for request in endpoint.requests)


async def test_after_a_suspend_the_keys_are_fetched_at_once(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jwks, "MAX_SLICE", 0.01)
    now = 0.0
    endpoint = Endpoint(document(issuer.jwks(), Cache_Control="max-age=3600"))
    async with endpoint.keys(clock=lambda: now) as keys:
        now = _jwks.HARD_CAP + 1
        await settles(lambda: list(keys.current().keys) == [issuer.kid])
    assert len(endpoint.requests) == 2
