"""What the two background tasks of a verifier share: both poll an issuer over HTTP while the verifier runs.

`Poller` is the life cycle and the HTTP client, `Servers` the choice among several addresses, `Backoff` the delay
between retries, `read_body` the limit on responses.
"""

import asyncio
import random
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Self

import httpx

#: Seconds of consecutive failures before a warning: services that start together miss each other at first.
WARN_AFTER = 5.0

#: A retry delay is multiplied by a random factor from this one to 1, so that a fleet does not retry in step.
MIN_JITTER = 0.5

#: Doublings of the retry delay at most, so that the exponent stays small.
_MAX_DOUBLINGS = 16


class PollFailed(Exception):
    """A poll without a usable response. `retry_after` is the delay in seconds that the server asked for."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@cache
def tls_context() -> ssl.SSLContext:
    """Return the process's only context: loading the system's certificates takes 20 ms."""
    return ssl.create_default_context()


def transport_for(*urls: str | None) -> httpx.AsyncHTTPTransport:
    """Return a transport for these URLs only; None stands for one that is not known yet."""
    if all(url is not None and url.startswith("http://") for url in urls):
        # The system's certificate authorities take megabytes. A context without any trusts no server.
        return httpx.AsyncHTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return httpx.AsyncHTTPTransport(verify=tls_context())


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """Return a body of at most `limit` bytes. Raises PollFailed if it is larger or compressed."""
    # A small compressed document could expand to a very large one.
    if "Content-Encoding" in response.headers:
        raise PollFailed("unexpected Content-Encoding")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise PollFailed(f"body over {limit} bytes")
    return bytes(body)


def urls_of(urls: str | Sequence[str]) -> tuple[str, ...]:
    """Return one URL, or several, as several. Raises ValueError if there are none."""
    several = (urls,) if isinstance(urls, str) else tuple(urls)
    if not several:
        raise ValueError("at least one URL is required")
    return several


class Servers:
    """The servers of one issuer. One is asked until it fails, then the next."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._turn = 0
        self._failures = 0

    @property
    def url(self) -> str:
        """The URL at the server whose turn it is."""
        return self._urls[self._turn]

    @property
    def count(self) -> int:
        return len(self._urls)

    @property
    def have_another(self) -> bool:
        """Whether the last request failed, and the server whose turn it is has not failed, too, in this round."""
        return self._failures % len(self._urls) != 0

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        """Go on to the next one."""
        self._turn = (self._turn + 1) % len(self._urls)
        self._failures += 1


class Backoff:
    """Exponential backoff with jitter, and the one warning that an outage is worth."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: Consecutive failures.
        self.failures = 0
        self._failing_since = 0.0
        #: The reason that was last logged in this outage.
        self.logged: str | None = None

    def reset(self) -> None:
        self.failures, self.logged = 0, None

    def fail(self, started_at: float, delays: tuple[float, float]) -> float:
        """Count a poll that started at `started_at` as failed. Return the seconds until the retry.

        `delays` are the first delay and the longest one.
        """
        if self.failures == 0:
            self._failing_since = started_at
        first, longest = delays
        delay = min(longest, first * 2.0 ** min(self.failures, _MAX_DOUBLINGS))
        self.failures += 1
        return delay * random.uniform(MIN_JITTER, 1.0)  # noqa: S311 - jitter, not a secret

    def is_warning_due(self) -> bool:
        """Return whether the outage has lasted long enough for a warning, and nothing was logged yet."""
        return self.logged is None and self._clock() - self._failing_since >= WARN_AFTER


class Poller(ABC):
    """A background task that polls, from entering to leaving. `urls` are all that it sends requests to."""

    def __init__(self, name: str, *urls: str | None, transport: httpx.AsyncBaseTransport | None) -> None:
        self._name = name
        self._urls = urls
        self._transport = transport
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the task. Returns when its first poll has succeeded or failed."""
        first_poll_done = asyncio.Event()
        self._task = asyncio.create_task(self._run(first_poll_done), name=self._name)
        try:
            await first_poll_done.wait()
        except BaseException:
            self._task.cancel()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @abstractmethod
    async def _poll(self, client: httpx.AsyncClient) -> float:
        """Poll once, and return the seconds until the next poll. Raises nothing, whatever the server sends."""

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _is_catching_up(self) -> bool:
        """Whether the polls so far are only a part of the first full answer."""
        return False

    async def _stop(self, client: httpx.AsyncClient) -> None:  # noqa: B027 - a hook; by default nothing is left to do
        """Run when the task ends, with the client still open."""

    async def _run(self, first_poll_done: asyncio.Event) -> None:
        try:
            async with self._client() as client:
                try:
                    while True:
                        delay = await self._poll(client)
                        if not self._is_catching_up():
                            first_poll_done.set()
                        await self._sleep(delay)
                finally:
                    await self._stop(client)
        finally:
            first_poll_done.set()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=self._transport or transport_for(*self._urls),
            # Each poll has a time limit of its own, over all that it does.
            timeout=None,  # noqa: S113 - see above
            follow_redirects=False,
            # No proxies or credentials from the environment: the issuer is reached directly.
            trust_env=False,
        )
