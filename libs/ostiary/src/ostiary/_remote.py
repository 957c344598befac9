"""A key set kept fresh from a JWKS endpoint by a background task; asking for it never does I/O.

The task refreshes ahead of expiry, with jitter so that a fleet does not ask in step. When the
endpoint fails it keeps what it has and retries with growing pauses, up to a hard cap: an outage of
the issuer is not an outage of its verifiers, and a key that was taken back is not trusted for ever.
An unknown `kid` only wakes the task, and no more often than once in a cool-down.
"""

import asyncio
import logging
import random
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

import httpx

from ostiary._keyset import InvalidKeySet, KeySet
from ostiary.errors import KeysUnavailable

_log = logging.getLogger("ostiary.keys")

#: Seconds for one whole fetch. The document is small and near.
FETCH_TIMEOUT = 5.0

#: Bytes of a JWKS document; 64 keys of 8192 bits take 90 KB.
MAX_DOCUMENT_BYTES = 256 * 1024

#: Seconds that a document counts as fresh, whatever Cache-Control says: not so short that we
#: hammer the issuer, not so long that a new key stays unknown for hours.
MIN_FRESH = 30.0
MAX_FRESH = 3600.0

#: Seconds of freshness if Cache-Control does not say.
DEFAULT_FRESH = 300.0

#: A refresh happens after this share of the freshness, drawn anew each time.
REFRESH_SHARE = (0.7, 0.9)

#: Seconds between a fetch and one more that an unknown `kid` may cause.
UNKNOWN_KEY_COOLDOWN = 30.0

#: Seconds of pause after a failed fetch: from the first, doubling, up to the last. Without any
#: keys nothing works, so there the pause stays short.
RETRY_PAUSES_WITH_KEYS = (1.0, 60.0)
RETRY_PAUSES_WITHOUT_KEYS = (0.1, 0.6)

#: Seconds of failing after which it is worth a warning; services that start together miss each other at first.
WARN_AFTER = 5.0

#: Seconds after the last good fetch until the keys are given up.
HARD_CAP = 24 * 3600.0

_JSON_TYPES = frozenset({"application/json", "application/jwk-set+json"})
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])", re.IGNORECASE)


class _FetchFailed(Exception):
    """A fetch brought no usable document."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A key set with when it was fetched, its validator and how long it counts as fresh (seconds)."""

    keys: KeySet
    fetched_at: float
    etag: str | None
    fresh_for: float


def suspend_aware_clock() -> float:
    """Return seconds on a clock that neither steps nor stops while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class RemoteKeys:
    """The keys published at a URL. A KeySource."""

    def __init__(
        self,
        url: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = suspend_aware_clock,
    ) -> None:
        """Make the source; nothing is fetched until it is entered. `transport` is for tests."""
        self._url = url
        self._transport = transport
        self._clock = clock
        self._held: _Held | None = None
        self._failures = 0
        self._failing_since = 0.0
        self._warned = False
        self._wanted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the refresher, and wait for its first fetch to end, well or not."""
        self._loop = asyncio.get_running_loop()
        first_fetch_done = asyncio.Event()
        self._task = asyncio.create_task(self._keep_fresh(first_fetch_done), name="ostiary-keys")
        await first_fetch_done.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the refresher."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def current(self) -> KeySet:
        """Return the keys held now. Raises KeysUnavailable if there are none, or none young enough."""
        held = self._held
        if held is None or self._clock() - held.fetched_at > HARD_CAP:
            raise KeysUnavailable
        return held.keys

    def report_unknown_key(self) -> None:
        """Wake the refresher, from any thread. Costs nothing while it is awake already."""
        if not self._wanted.is_set() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wanted.set)

    async def _keep_fresh(self, first_fetch_done: asyncio.Event) -> None:
        async with self._client() as client:
            while True:
                pause = await self._refresh(client)
                first_fetch_done.set()
                cooldown = min(pause, UNKNOWN_KEY_COOLDOWN)
                await asyncio.sleep(cooldown)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), pause - cooldown)

    def _client(self) -> httpx.AsyncClient:
        # No proxies or credentials out of the environment: keys come straight from the issuer.
        return httpx.AsyncClient(
            transport=self._transport,
            verify=ssl.create_default_context(),
            timeout=FETCH_TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )

    async def _refresh(self, client: httpx.AsyncClient) -> float:
        """Fetch once and return the seconds until the next time."""
        self._wanted.clear()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                held = await self._fetch(client)
        except (TimeoutError, httpx.HTTPError, InvalidKeySet, _FetchFailed) as error:
            return self._note_failure(error)
        if self._held is None or held.keys.keys.keys() != self._held.keys.keys.keys():
            _log.info("keys fetched", extra={"kids": sorted(held.keys.keys)})
        self._held = held
        self._failures = 0
        return held.fresh_for * random.uniform(*REFRESH_SHARE)  # noqa: S311 - jitter, not a secret

    def _note_failure(self, error: Exception) -> float:
        first, last = RETRY_PAUSES_WITHOUT_KEYS if self._held is None else RETRY_PAUSES_WITH_KEYS
        pause = min(last, first * 2.0 ** min(self._failures, 16))
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
            self._warned = False
        if not self._warned and now - self._failing_since >= WARN_AFTER:
            self._warned = True
            _log.warning("keys cannot be fetched, retrying: %s", str(error) or type(error).__name__)
        self._failures += 1
        return pause * random.uniform(0.8, 1.0)  # noqa: S311 - jitter, not a secret

    async def _fetch(self, client: httpx.AsyncClient) -> _Held:
        # Counted from the moment of asking: a slow answer must not look younger than it is.
        asked_at = self._clock()
        headers = {"Accept": "application/json"}
        if self._held is not None and self._held.etag is not None:
            headers["If-None-Match"] = self._held.etag
        async with client.stream("GET", self._url, headers=headers) as response:
            cache_control = response.headers.get("Cache-Control")
            if response.status_code == httpx.codes.NOT_MODIFIED and self._held is not None:
                # What a 304 does not say stays as it was (RFC 9111 section 4.3.4).
                fresh_for = self._held.fresh_for if cache_control is None else _freshness(cache_control)
                return replace(self._held, fetched_at=asked_at, fresh_for=fresh_for)
            if response.status_code != httpx.codes.OK:
                raise _FetchFailed(f"status {response.status_code}")
            content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if content_type not in _JSON_TYPES:
                raise _FetchFailed("not JSON")
            keys = KeySet.from_json(await _read_limited(response))
            return _Held(keys, asked_at, response.headers.get("ETag"), _freshness(cache_control or ""))


async def _read_limited(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise _FetchFailed(f"over {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


def _freshness(cache_control: str) -> float:
    """Return the seconds that a document counts as fresh (RFC 9111 section 5.2.2.1), within our bounds."""
    match = _MAX_AGE.search(cache_control)
    seconds = float(match.group(1)) if match else DEFAULT_FRESH
    return min(max(seconds, MIN_FRESH), MAX_FRESH)
