"""A key set that a background task refreshes from a JWKS endpoint; reading it does no I/O.

The task refreshes ahead of expiry, with jitter so that a fleet does not fetch in step. When the
endpoint fails, it keeps the key set and retries with backoff, up to a hard cap: an outage of the
issuer is not an outage of its verifiers, and a withdrawn key is not trusted for ever. An unknown
`kid` only wakes the task, at most once in a cooldown.
"""

import asyncio
import logging
import random
import re
from collections.abc import Callable, Sequence
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
from ostiary._polling import Backoff, Poller, PollFailed, Servers, read_body, urls_of
from ostiary.errors import KeysUnavailable
from ostiary.observer import Observer, harmless

_log = logging.getLogger("ostiary.keys")

#: Seconds for one whole fetch. The documents are small and near.
FETCH_TIMEOUT = 5.0

#: Bytes of a document; 64 keys of 8192 bits take 90 KB.
MAX_DOCUMENT_BYTES = 256 * 1024

#: Bounds on the seconds that a document counts as fresh, whatever Cache-Control says: not so short that
#: verifiers overload the issuer, not so long that a new key stays unknown for hours.
MIN_FRESH = 30.0
MAX_FRESH = 3600.0

#: Seconds of freshness without Cache-Control.
DEFAULT_FRESH = 300.0

#: A refresh happens after a random share of the freshness between these two.
REFRESH_SHARE = (0.7, 0.9)

#: Seconds between a fetch and the next one that an unknown `kid` may cause.
UNKNOWN_KEY_COOLDOWN = 30.0

#: Seconds between two fetches, whatever the issuer announces.
ANNOUNCED_COOLDOWN = 0.1

#: Seconds before a retry: the first and the longest delay. Without any keys nothing works, so retries are frequent.
RETRY_DELAYS_WITH_KEYS = (1.0, 60.0)
RETRY_DELAYS_WITHOUT_KEYS = (0.1, 0.6)

#: Seconds of delay that an endpoint may ask for with Retry-After.
MAX_RETRY_AFTER = 60.0

#: Seconds slept at a time: the event loop's clock stops in suspend, ours does not.
MAX_SLICE = 10.0

#: Seconds after the last successful fetch until the keys are discarded.
HARD_CAP = 24 * 3600.0

#: No compression: a small document could expand to a very large one.
_REQUEST_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}

_JSON_TYPES = frozenset({"application/json", "application/jwk-set+json"})
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"\Z')
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _FetchedKeys:
    """A key set, the time of its fetch, its validator, and the seconds that it counts as fresh."""

    keys: KeySet
    fetched_at: float
    etag: str | None
    fresh_for: float


class RemoteKeys(Poller):
    """The keys that an issuer publishes. A KeySource."""

    def __init__(
        self,
        issuer: str,
        jwks_url: str | Sequence[str] | None = None,
        *,
        allow_insecure: bool = False,
        last_good: Path | None = None,
        observer: Observer | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = suspend_aware_clock,
    ) -> None:
        """Nothing is fetched until the source is entered.

        Several URLs are those of several servers: one is asked until it fails, then the next. Without `jwks_url`, the
        URL is taken from the issuer's metadata (RFC 8414). `last_good` is a file
        that stores the last good document. `transport` and `clock` are for tests.

        Raises ValueError for a URL that keys must not come from.
        """
        urls = urls_of(jwks_url) if jwks_url is not None else ()
        for url in urls or (issuer,):
            check_address(url, allow_insecure=allow_insecure)
        super().__init__("ostiary-keys", *(urls or (None,)), transport=transport)
        self._issuer = issuer
        self._servers = Servers(urls) if urls else None
        self._allow_insecure = allow_insecure
        self._last_good = last_good
        self._observer = observer
        self._clock = clock
        self._backoff = Backoff(clock)
        self._fetched: _FetchedKeys | None = None
        self._woken = asyncio.Event()
        self._announced = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Start the refresher. Returns when its first fetch has succeeded or failed."""
        self._loop = asyncio.get_running_loop()
        # Events belong to the event loop of their first use.
        self._woken, self._announced = asyncio.Event(), asyncio.Event()
        if self._last_good is not None:
            await asyncio.to_thread(self._load_last_good, self._last_good)
        return await super().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        self._loop = None
        await super().__aexit__()

    def current(self) -> KeySet:
        """Return the current keys. Raises KeysUnavailable if there are none, or they are past the hard cap."""
        fetched = self._fetched
        if fetched is None:
            raise KeysUnavailable
        if self._clock() - fetched.fetched_at > HARD_CAP:
            self.report_unknown_key()
            raise KeysUnavailable
        return fetched.keys

    def report_unknown_key(self) -> None:
        """Wake the refresher, from any thread. Costs nothing if it is already awake."""
        loop = self._loop
        if loop is not None and not self._woken.is_set():
            with suppress(RuntimeError):  # the event loop was closed meanwhile
                loop.call_soon_threadsafe(self._woken.set)

    def report_new_keys(self) -> None:
        """Fetch at once: the issuer has announced other keys."""
        self._announced.set()
        self._woken.set()

    async def _sleep(self, seconds: float) -> None:
        """Sleep by the clock that runs in suspend.

        An announcement by the issuer ends the sleep, and so does an unknown key, but not within the cooldown.
        """
        now = self._clock()
        until = now + seconds
        await asyncio.sleep(min(seconds, ANNOUNCED_COOLDOWN))
        await self._wait_for(self._announced, min(until, now + UNKNOWN_KEY_COOLDOWN))
        if not self._announced.is_set():
            await self._wait_for(self._woken, until)

    async def _wait_for(self, event: asyncio.Event, until: float) -> None:
        while (now := self._clock()) < until and not event.is_set():
            with suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                async with asyncio.timeout(min(until - now, MAX_SLICE)):
                    await event.wait()

    def _is_catching_up(self) -> bool:
        return self._servers is not None and self._servers.have_another

    async def _poll(self, client: httpx.AsyncClient) -> float:
        self._woken.clear()
        # After an announcement, a cache on the path must not return the old keys.
        headers = {"Cache-Control": "no-cache"} if self._announced.is_set() else {}
        self._announced.clear()
        # Age counts from the request: a slow response must not look fresher than it is.
        sent_at = self._clock()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                fetched, document = await self._fetch(client, sent_at, headers)
        except Exception as error:  # noqa: BLE001 - the task has to outlive whatever a hostile endpoint causes
            return self._note_failure(error, sent_at)
        changed = self._fetched is None or fetched.keys is not self._fetched.keys
        self._fetched = fetched
        self._backoff.reset()
        if self._servers is not None:
            self._servers.succeeded()
        self._observe("changed" if changed else "unchanged", sent_at)
        if changed:
            _log.info("keys fetched", extra={"issuer": self._issuer, "kids": sorted(fetched.keys.keys)})
        if self._last_good is not None and document is not None:
            await self._store_last_good(self._last_good, document)
        return fetched.fresh_for * random.uniform(*REFRESH_SHARE)  # noqa: S311 - jitter, not a secret

    def _note_failure(self, error: Exception, sent_at: float) -> float:
        self._observe("failed", sent_at)
        delays = RETRY_DELAYS_WITH_KEYS if self._has_keys() else RETRY_DELAYS_WITHOUT_KEYS
        delay = self._backoff.fail(sent_at, delays)
        if self._backoff.is_warning_due():
            reason = str(error) if isinstance(error, PollFailed | InvalidKeySet) else type(error).__name__
            self._backoff.logged = reason
            _log.warning("key fetch failed", extra={"issuer": self._issuer, "reason": reason})
        if self._servers is not None:
            self._servers.failed()
            if self._servers.have_another:
                return 0.0
        if self._fetched is not None and self._clock() - self._fetched.fetched_at < self._fetched.fresh_for:
            # An unknown key caused an early fetch; the keys are still fresh, so the retry can wait.
            delay = max(delay, UNKNOWN_KEY_COOLDOWN)
        return max(delay, error.retry_after if isinstance(error, PollFailed) else 0.0)

    def _has_keys(self) -> bool:
        try:
            self.current()
        except KeysUnavailable:
            return False
        return True

    def _observe(self, outcome: str, sent_at: float) -> None:
        if self._observer is not None:
            with harmless():
                self._observer.fetched(self._issuer, outcome, self._clock() - sent_at)

    async def _fetch(
        self, client: httpx.AsyncClient, sent_at: float, headers: dict[str, str]
    ) -> tuple[_FetchedKeys, bytes | None]:
        """Return the key set, and its document unless that is unchanged. Raises PollFailed, InvalidKeySet and more."""
        url = self._servers.url if self._servers is not None else await self._discover(client)
        fetched = self._fetched
        if fetched is not None and fetched.etag is not None:
            headers = {**headers, "If-None-Match": fetched.etag}
        async with client.stream("GET", url, headers={**_REQUEST_HEADERS, **headers}) as response:
            cache_control = response.headers.get("Cache-Control")
            if response.status_code == httpx.codes.NOT_MODIFIED and fetched is not None and fetched.etag is not None:
                # Header fields that a 304 omits keep their values (RFC 9111 section 4.3.4).
                fresh_for = fetched.fresh_for if cache_control is None else _freshness(cache_control)
                return replace(fetched, fetched_at=sent_at, fresh_for=fresh_for), None
            document = await _read_json(response)
        keys = KeySet.from_json(document)
        if fetched is not None and keys == fetched.keys:
            keys = fetched.keys  # the same object, so that cached tokens stay valid
        etag = response.headers.get("ETag", "")
        # It is sent back, so it has to be well-formed (RFC 9110 section 8.8.3).
        validator = etag if _ETAG.match(etag) else None
        return _FetchedKeys(keys, sent_at, validator, _freshness(cache_control or "")), document

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
            raise PollFailed("metadata is not a strict JSON object") from error
        if metadata.get("issuer") != self._issuer:
            raise PollFailed("metadata is of another issuer")
        jwks_uri = metadata.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise PollFailed("metadata lacks jwks_uri")
        try:
            check_address(jwks_uri, allow_insecure=self._allow_insecure)
        except ValueError as error:
            raise PollFailed(str(error)) from error
        return jwks_uri

    async def _store_last_good(self, path: Path, document: bytes) -> None:
        # In a thread and with a time limit: a disk that hangs must not stop the refreshing.
        with suppress(TimeoutError):
            async with asyncio.timeout(FETCH_TIMEOUT):
                await asyncio.to_thread(_disk.store, path, self._issuer, document)

    def _load_last_good(self, path: Path) -> None:
        stored = _disk.load(path, self._issuer, HARD_CAP)
        if stored is None:
            return
        document, age = stored
        with suppress(InvalidKeySet):
            self._fetched = _FetchedKeys(KeySet.from_json(document), self._clock() - age, None, MIN_FRESH)
            _log.info("stored keys loaded", extra={"issuer": self._issuer, "age_seconds": round(age)})


async def _read_json(response: httpx.Response) -> bytes:
    """Return the body of a JSON response. Raises PollFailed."""
    if response.status_code != httpx.codes.OK:
        raise PollFailed(f"status {response.status_code}", _retry_after(response))
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type not in _JSON_TYPES:
        raise PollFailed("unexpected Content-Type")
    return await read_body(response, MAX_DOCUMENT_BYTES)


def _retry_after(response: httpx.Response) -> float:
    """Return the delay that a response asks for (RFC 9110 section 10.2.3); dates are ignored."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), MAX_RETRY_AFTER) if value.isascii() and value.isdecimal() else 0.0


def _freshness(cache_control: str) -> float:
    """Return the seconds that a document counts as fresh (RFC 9111 section 5.2.2.1), within our bounds."""
    match = _MAX_AGE.search(cache_control)
    seconds = float(match.group(1)) if match else DEFAULT_FRESH
    return min(max(seconds, MIN_FRESH), MAX_FRESH)
