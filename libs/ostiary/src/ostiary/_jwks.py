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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx

from ostiary import _disk, _json
from ostiary._addresses import check_address
from ostiary._clock import suspend_aware_clock
from ostiary._keyset import InvalidKeySet, KeySet
from ostiary._polling import Backoff, Poller, PollFailed, read_body
from ostiary.errors import KeysUnavailable
from ostiary.observer import Observer, harmless

_log = logging.getLogger("ostiary.keys")

#: Seconds for one whole refresh. The documents are small and near.
FETCH_TIMEOUT = 5.0

#: Bytes of a document; 64 keys of 8192 bits take 90 KB.
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

#: Seconds between two fetches, whatever the issuer says.
ANNOUNCED_COOLDOWN = 0.1

#: Seconds of pause after a failed fetch: from the first, doubling, up to the last. Without any
#: keys nothing works, so there the pause stays short.
RETRY_DELAYS_WITH_KEYS = (1.0, 60.0)
RETRY_DELAYS_WITHOUT_KEYS = (0.1, 0.6)

#: Seconds of pause that an endpoint may ask for with Retry-After.
MAX_RETRY_AFTER = 60.0

#: Seconds slept at a time: the loop's own clock stands still in suspend, ours does not.
MAX_SLICE = 10.0

#: Seconds after the last good fetch until the keys are given up.
HARD_CAP = 24 * 3600.0

#: No compression: a small document could turn into a very large one.
_REQUEST_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}

_JSON_TYPES = frozenset({"application/json", "application/jwk-set+json"})
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"\Z')
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Held:
    """A key set with when it was fetched, its validator and how long it counts as fresh (seconds)."""

    keys: KeySet
    fetched_at: float
    etag: str | None
    fresh_for: float


class RemoteKeys(Poller):
    """The keys that an issuer publishes. A KeySource."""

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None = None,
        *,
        allow_insecure: bool = False,
        last_good: Path | None = None,
        observer: Observer | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = suspend_aware_clock,
    ) -> None:
        """Make the source; nothing is fetched until it is entered.

        Without `jwks_url`, the address is taken from the issuer's metadata (RFC 8414). `last_good` is
        a file for the last good document. `transport` and `clock` are for tests.

        Raises ValueError for an address that keys must not come from.
        """
        check_address(jwks_url or issuer, allow_insecure=allow_insecure)
        super().__init__("ostiary-keys", jwks_url, transport=transport)
        self._issuer = issuer
        self._url = jwks_url
        self._allow_insecure = allow_insecure
        self._last_good = last_good
        self._observer = observer
        self._clock = clock
        self._backoff = Backoff(clock)
        self._held: _Held | None = None
        self._wanted = asyncio.Event()
        self._announced = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Start the refresher, and wait for its first fetch to end, well or not."""
        self._loop = asyncio.get_running_loop()
        # Bound to this loop from their first use on.
        self._wanted, self._announced = asyncio.Event(), asyncio.Event()
        if self._last_good is not None:
            await asyncio.to_thread(self._load_last_good, self._last_good)
        return await super().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        self._loop = None
        await super().__aexit__()

    def current(self) -> KeySet:
        """Return the keys held now. Raises KeysUnavailable if there are none, or none young enough."""
        held = self._held
        if held is None:
            raise KeysUnavailable
        if self._clock() - held.fetched_at > HARD_CAP:
            self.report_unknown_key()
            raise KeysUnavailable
        return held.keys

    def report_unknown_key(self) -> None:
        """Wake the refresher, from any thread. Costs nothing while it is awake already."""
        loop = self._loop
        if loop is not None and not self._wanted.is_set():
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(self._wanted.set)

    def report_new_keys(self) -> None:
        """Fetch at once: the issuer has said that its keys are others than these."""
        self._announced.set()
        self._wanted.set()

    async def _sleep(self, seconds: float) -> None:
        """Wait on the clock that runs in suspend.

        News from the issuer end the wait; an unknown key does so too, but not within the cool-down.
        """
        now = self._clock()
        until = now + seconds
        await asyncio.sleep(min(seconds, ANNOUNCED_COOLDOWN))
        await self._wait_for(self._announced, min(until, now + UNKNOWN_KEY_COOLDOWN))
        if not self._announced.is_set():
            await self._wait_for(self._wanted, until)

    async def _wait_for(self, event: asyncio.Event, until: float) -> None:
        while (now := self._clock()) < until and not event.is_set():
            with suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                async with asyncio.timeout(min(until - now, MAX_SLICE)):
                    await event.wait()

    async def _poll(self, client: httpx.AsyncClient) -> float:
        """Fetch once and return the seconds until the next time."""
        self._wanted.clear()
        # What the issuer itself says is new must not come out of a cache on the way.
        headers = {"Cache-Control": "no-cache"} if self._announced.is_set() else {}
        self._announced.clear()
        # Counted from the moment of asking: a slow answer must not look younger than it is.
        asked_at = self._clock()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                held, document = await self._fetch(client, asked_at, headers)
        except Exception as error:  # noqa: BLE001 - whatever a hostile endpoint brings about, the refresher goes on
            return self._note_failure(error, asked_at)
        changed = self._held is None or held.keys is not self._held.keys
        self._held = held
        self._backoff.reset()
        self._observe("changed" if changed else "unchanged", asked_at)
        if changed:
            _log.info("keys fetched", extra={"issuer": self._issuer, "kids": sorted(held.keys.keys)})
        if self._last_good is not None and document is not None:
            await self._store_last_good(self._last_good, document)
        return held.fresh_for * random.uniform(*REFRESH_SHARE)  # noqa: S311 - jitter, not a secret

    def _note_failure(self, error: Exception, asked_at: float) -> float:
        self._observe("failed", asked_at)
        delays = RETRY_DELAYS_WITH_KEYS if self._has_keys() else RETRY_DELAYS_WITHOUT_KEYS
        delay = self._backoff.fail(asked_at, delays)
        if self._backoff.is_warning_due():
            reason = str(error) if isinstance(error, PollFailed | InvalidKeySet) else type(error).__name__
            self._backoff.logged = reason
            _log.warning("keys cannot be fetched, retrying", extra={"issuer": self._issuer, "reason": reason})
        if self._held is not None and self._clock() - self._held.fetched_at < self._held.fresh_for:
            # It was an unknown key that made us ask early; the keys are fresh, and there is no hurry.
            delay = max(delay, UNKNOWN_KEY_COOLDOWN)
        return max(delay, error.retry_after if isinstance(error, PollFailed) else 0.0)

    def _has_keys(self) -> bool:
        try:
            self.current()
        except KeysUnavailable:
            return False
        return True

    def _observe(self, outcome: str, asked_at: float) -> None:
        if self._observer is not None:
            with harmless():
                self._observer.fetched(self._issuer, outcome, self._clock() - asked_at)

    async def _fetch(
        self, client: httpx.AsyncClient, asked_at: float, headers: dict[str, str]
    ) -> tuple[_Held, bytes | None]:
        """Fetch the key set, and its document unless that is known. Raises PollFailed, InvalidKeySet and more."""
        url = self._url or await self._discover(client)
        held = self._held
        if held is not None and held.etag is not None:
            headers = {**headers, "If-None-Match": held.etag}
        async with client.stream("GET", url, headers={**_REQUEST_HEADERS, **headers}) as response:
            cache_control = response.headers.get("Cache-Control")
            if response.status_code == httpx.codes.NOT_MODIFIED and held is not None and held.etag is not None:
                # What a 304 does not say stays as it was (RFC 9111 section 4.3.4).
                fresh_for = held.fresh_for if cache_control is None else _freshness(cache_control)
                return replace(held, fetched_at=asked_at, fresh_for=fresh_for), None
            document = await _read_json(response)
        keys = KeySet.from_json(document)
        if held is not None and keys == held.keys:
            keys = held.keys  # the same object: what was verified with it need not be verified again
        etag = response.headers.get("ETag", "")
        # It is sent back as it is, so it has to be one (RFC 9110 section 8.8.3).
        validator = etag if _ETAG.match(etag) else None
        return _Held(keys, asked_at, validator, _freshness(cache_control or "")), document

    async def _discover(self, client: httpx.AsyncClient) -> str:
        """Return the issuer's `jwks_uri`, from its metadata (RFC 8414 sections 3 and 3.3)."""
        parts = urlsplit(self._issuer)
        # The well-known part goes between host and path (section 3.1).
        path = f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"
        url = f"{parts.scheme}://{parts.netloc}{path}"
        async with client.stream("GET", url, headers=_REQUEST_HEADERS) as response:
            document = await _read_json(response)
        try:
            metadata = _json.parse_object(document.strip())
        except ValueError as error:
            raise PollFailed("the metadata are not strict JSON") from error
        if metadata.get("issuer") != self._issuer:
            raise PollFailed("the metadata are another issuer's")
        jwks_uri = metadata.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise PollFailed("the metadata lack jwks_uri")
        try:
            check_address(jwks_uri, allow_insecure=self._allow_insecure)
        except ValueError as error:
            raise PollFailed(str(error)) from error
        return jwks_uri

    async def _store_last_good(self, path: Path, document: bytes) -> None:
        # In a thread, and not waited for long: a disk that hangs must not let the keys grow old.
        with suppress(TimeoutError):
            async with asyncio.timeout(FETCH_TIMEOUT):
                await asyncio.to_thread(_disk.store, path, self._issuer, document)

    def _load_last_good(self, path: Path) -> None:
        stored = _disk.load(path, self._issuer, HARD_CAP)
        if stored is None:
            return
        document, age = stored
        with suppress(InvalidKeySet):
            self._held = _Held(KeySet.from_json(document), self._clock() - age, None, MIN_FRESH)
            _log.info("stored keys loaded", extra={"issuer": self._issuer, "age": round(age)})


async def _read_json(response: httpx.Response) -> bytes:
    """Return a response's body if it is JSON of bearable size. Raises PollFailed."""
    if response.status_code != httpx.codes.OK:
        raise PollFailed(f"status {response.status_code}", _retry_after(response))
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type not in _JSON_TYPES:
        raise PollFailed("not JSON")
    return await read_body(response, MAX_DOCUMENT_BYTES)


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that a 429 or 503 asks for (RFC 9110 section 10.2.3); dates are not read."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), MAX_RETRY_AFTER) if value.isascii() and value.isdecimal() else 0.0


def _freshness(cache_control: str) -> float:
    """Return the seconds that a document counts as fresh (RFC 9111 section 5.2.2.1), within our bounds."""
    match = _MAX_AGE.search(cache_control)
    seconds = float(match.group(1)) if match else DEFAULT_FRESH
    return min(max(seconds, MIN_FRESH), MAX_FRESH)
