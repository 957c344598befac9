"""A background task that reads an issuer's revocation feed by long polling.

It polls again as soon as it has an answer: a poll acknowledges what was applied, so the issuer knows
which verifier has which revocation. A poll waits for new revocations only as long as its answer is
still fresh for the strictest bound of this verifier.
"""

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from ostiary import _json, feed
from ostiary._addresses import check_address
from ostiary._clock import suspend_aware_clock
from ostiary._polling import Backoff, Poller, PollFailed, Servers, read_body, urls_of
from ostiary._revocations import Revocations
from ostiary._source import KeySource
from ostiary.errors import KeysUnavailable, UnknownKey
from ostiary.feed import FeedFault
from ostiary.observer import Observer, harmless

_log = logging.getLogger("ostiary.revocations")

#: A poll waits for new revocations for this share of the strictest bound, and times out after one more: after a poll
#: that waited to its end and one that timed out, a quarter is left for a retry. Where answers take longer, the timeout
#: grows, up to the laxest bound: an answer that is older is of no use.
SHARE = 1 / 4

#: Seconds that a poll waits at least and at most, and its timeout beyond that at most.
MIN_WAIT = 0.05
MAX_WAIT = 10.0
MAX_ANSWER_SECONDS = 10.0

#: Seconds for requesting a token.
TOKEN_TIMEOUT = 5.0

#: Seconds for deregistering, for one attempt, and after each: the issuer may be restarting, too.
LEAVE_SECONDS = 2.5
LEAVE_TIMEOUT = 1.0
LEAVE_DELAYS = (0.1, 0.2, 0.4, 0.8, 0.0)

#: Random bytes in the nonce of a poll.
NONCE_BYTES = 16

#: A token for the feed is renewed after this share of its lifetime.
TOKEN_RENEWAL_SHARE = 0.8

#: Seconds before another request for a token where one has failed, while the current one is still good.
TOKEN_RETRY_SECONDS = 1.0

#: Seconds before a retry: the first and the longest delay.
RETRY_DELAYS = (0.05, 1.0)

#: Seconds before the next poll after an answer that came at once without new revocations.
IDLE_DELAY = 0.05

#: With a random suffix, it is a valid verifier id for the feed.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}\Z")

#: Bytes of a token endpoint's response.
MAX_TOKEN_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """An issuer's revocation feed, and the client that reads it, which needs the scope `feed:read`.

    url:           the URL of the feed; several, if it has several servers: one is asked until it fails, then the next.
    client_id:     the client's id.
    client_secret: the client's secret, or
    secret_file:   the file that contains it; it is read for each token, so the secret may change, or be created later.
    token_url:     the issuer's token endpoint; by default, `/oauth/token` on the host of the feed in use.
    name:          the name of this verifier in the issuer's list of verifiers, to which a random suffix is added.
    """

    url: str | Sequence[str]
    client_id: str
    client_secret: str = field(default="", repr=False)
    secret_file: str | Path | None = None
    token_url: str | None = None
    name: str = "verifier"

    def __post_init__(self) -> None:
        if bool(self.client_secret) == bool(self.secret_file):
            raise ValueError("a feed needs either client_secret or secret_file")
        if _NAME.match(self.name) is None:
            raise ValueError("a feed's name must be 1 to 40 characters of A-Z, a-z, 0-9, '.', '_' and '-'")
        if any("?" in url or "#" in url for url in self.urls):
            raise ValueError("a feed's url must have no query or fragment")

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the feed."""
        return urls_of(self.url)

    def token_endpoint(self, url: str) -> str:
        """Return the URL of the token endpoint that goes with a URL of the feed."""
        parts = urlsplit(url)
        return self.token_url or urlunsplit((parts.scheme, parts.netloc, "/oauth/token", "", ""))

    def secret(self) -> str:
        """Return the secret. Raises OSError or ValueError if its file cannot be read."""
        return self.client_secret or Path(self.secret_file or "").read_text(encoding="utf-8").rstrip("\r\n")


class FeedClient(Poller):
    """The revocations of an issuer's feed. A RevocationSource."""

    def __init__(
        self,
        issuer: str,
        config: Feed,
        keys: KeySource,
        bounds: set[float],
        *,
        allow_insecure: bool = False,
        observer: Observer | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = suspend_aware_clock,
    ) -> None:
        """Nothing is polled until the client is entered.

        `bounds` are the ages in seconds that the callers of this verifier accept; more may be added at any time.
        `transport` and `clock` are for tests.

        Raises ValueError for URLs that a secret must not be sent to.
        """
        addresses = [*config.urls, *map(config.token_endpoint, config.urls)]
        for address in addresses:
            check_address(address, allow_insecure=allow_insecure)
        super().__init__("ostiary-revocations", *addresses, transport=transport)
        self._servers = Servers(config.urls)
        self.revocations = Revocations(clock)
        self._issuer = issuer
        self._config = config
        self._keys = keys
        self._bounds = bounds
        self._observer = observer
        self._clock = clock
        self._backoff = Backoff(clock)
        self._id = ""
        self._token = ""
        self._token_renewal_at = self._token_ends_at = 0.0
        #: The request for the next token.
        self._renewal: asyncio.Task[None] | None = None
        #: Seconds beyond its wait after which a poll times out; the longest at first, when nothing is known yet.
        self._timeout = MAX_ANSWER_SECONDS
        #: Consecutive answers that named keys other than those in memory.
        self._key_mismatches = 0

    async def __aenter__(self) -> Self:
        """Start polling. Returns when the first full set was applied, or a poll has failed."""
        # Not in the constructor: a server may fork its workers after that, and each needs an id of its own.
        self._id = f"{self._config.name}-{secrets.token_hex(8)}"
        return await super().__aenter__()

    async def _stop(self, client: httpx.AsyncClient) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        # The issuer stops counting on this verifier, so nothing is accepted from here on.
        self.revocations.fresh_at = -math.inf
        if self._token:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    for delay in LEAVE_DELAYS:
                        if await self._leave(client):
                            return
                        await asyncio.sleep(delay)

    async def _leave(self, client: httpx.AsyncClient) -> bool:
        """Deregister, and return whether there is an answer to it."""
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT):
                answer = await client.delete(self._servers.url, params={"verifier": self._id}, headers=headers)
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    # The token has ended, or its key was replaced.
                    await self._get_token(client)
                    return False
        except Exception:  # noqa: BLE001 - whatever went wrong, the next attempt may succeed
            self._servers.failed()
            return False
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            self._servers.failed()
            return False
        return True

    def _is_catching_up(self) -> bool:
        is_reading_pages = self._backoff.failures == 0 and not self.revocations.complete
        return is_reading_pages or self._servers.have_another

    @property
    def _wait(self) -> float:
        """Seconds that a poll waits for new revocations."""
        return max(MIN_WAIT, min([MAX_WAIT, *(bound * SHARE for bound in tuple(self._bounds))]))

    @property
    def _max_timeout(self) -> float:
        """Seconds beyond its wait after which a poll times out, at most."""
        return max(self._wait, min([MAX_ANSWER_SECONDS, *([max(self._bounds)] if self._bounds else [])]))

    async def _poll(self, client: httpx.AsyncClient) -> float:
        started_at = self._clock()
        try:
            return await self._poll_once(client)
        except UnknownKey:
            # The issuer has a new key.
            self._keys.report_new_keys()
            return self._note_failure("signed with an unknown key", "failed", started_at)
        except FeedFault as error:
            return self._note_failure(str(error), "rejected", started_at)
        except (PollFailed, KeysUnavailable) as error:
            return self._note_failure(str(error), "failed", started_at)
        except TimeoutError:
            delay = self._note_failure("timed out", "failed", started_at)
            if not self._servers.have_another:
                self._timeout = min(2 * self._timeout, self._max_timeout)
            return delay
        except Exception as error:  # noqa: BLE001 - the task has to outlive whatever a hostile server causes
            return self._note_failure(type(error).__name__, "failed", started_at)

    async def _poll_once(self, client: httpx.AsyncClient) -> float:
        keys = self._keys.current()
        await self._renew_token(client)
        lease, position = max(tuple(self._bounds), default=None), self.revocations.position
        # A verifier that has no full set, or has missed an answer, needs one at once.
        wait = 0.0 if self._backoff.failures or not self.revocations.complete else self._wait
        query: dict[str, str | int] = {
            "epoch": position.epoch if position else "",
            "after": position.number if position else 0,
            "wait": int(wait * 1000),
            "verifier": self._id,
            "keys": keys.version,
        }
        if position is not None:
            query["receipt"] = self.revocations.receipt
        if lease is not None:
            query["lease"] = math.ceil(lease * 1000)
        query["nonce"] = nonce = secrets.token_urlsafe(NONCE_BYTES)
        # The answer is as fresh as this moment, before the nonce has left: whoever lists it has signed after it.
        sent_at = self._clock()
        # Several servers may hang: all are asked before the revocations are too old, if the first left time for it.
        patience = self._timeout / self._servers.count if self._servers.have_another else self._timeout
        async with asyncio.timeout(wait + max(MIN_WAIT, patience)):
            body = await self._get(client, query)
        answer = feed.read(body, self._issuer, self._keys.current(), self.revocations.has_key, nonce)
        self.revocations.apply(answer, sent_at, math.inf if lease is None else lease)
        self._note_answer(answer, sent_at)
        delay = self._clock() - sent_at - wait
        self._timeout = min(max(self._wait, 2 * delay), self._max_timeout)
        if answer.keys != self._keys.current().version:
            # The next poll is answered at once, and a cache may return the old keys for some time.
            self._keys.report_new_keys()
            self._key_mismatches += 1
            return min(self._wait, IDLE_DELAY * 2.0 ** min(self._key_mismatches, 16))
        self._key_mismatches = 0
        has_news = bool(answer.revocations) or answer.page is not None
        is_quick = self._clock() - sent_at < min(wait, IDLE_DELAY)
        return 0.0 if has_news or not is_quick else IDLE_DELAY

    async def _get(self, client: httpx.AsyncClient, query: Mapping[str, str | int]) -> bytes:
        """Return the body of the response to a poll. Raises PollFailed."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": feed.MEDIA_TYPE,
            "Accept-Encoding": "identity",
            "Cache-Control": "no-store",
        }
        async with client.stream("GET", self._servers.url, params=query, headers=headers) as response:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._token_renewal_at = self._token_ends_at = 0.0
            if response.status_code != httpx.codes.OK:
                raise PollFailed(f"status {response.status_code}")
            if response.headers.get("Content-Type") != feed.MEDIA_TYPE:
                raise PollFailed("unexpected Content-Type")
            return await read_body(response, feed.MAX_BYTES)

    async def _renew_token(self, client: httpx.AsyncClient) -> None:
        """Have a token that is good (RFC 6749 section 4.4). Raises PollFailed.

        While the current one is, polls go on with it: a slow token endpoint costs no freshness.
        """
        now = self._clock()
        if now < self._token_renewal_at:
            return
        if self._renewal is None or self._renewal.done():
            self._token_renewal_at = min(self._token_ends_at, now + TOKEN_RETRY_SECONDS)
            self._renewal = asyncio.create_task(self._get_token(client))
            # If it fails, and nobody waits for it, it is repeated.
            self._renewal.add_done_callback(lambda task: task.cancelled() or task.exception())
        if now >= self._token_ends_at:
            await self._renewal

    async def _get_token(self, client: httpx.AsyncClient) -> None:
        try:
            secret = await asyncio.to_thread(self._config.secret)
        except (OSError, ValueError) as error:
            raise PollFailed(f"cannot read the client's secret: {type(error).__name__}") from None
        form = {
            "grant_type": "client_credentials",
            "scope": feed.SCOPE,
            "client_id": self._config.client_id,
            "client_secret": secret,
        }
        sent_at = self._clock()
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT):
                granted = await self._request_token(client, form)
        except TimeoutError:
            raise PollFailed("token request timed out") from None
        token, lifetime = granted.get("access_token"), granted.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not isinstance(lifetime, int):
            raise PollFailed("malformed token response (RFC 6749 section 5.1)")
        self._token, self._token_ends_at = token, sent_at + lifetime
        self._token_renewal_at = sent_at + lifetime * TOKEN_RENEWAL_SHARE

    async def _request_token(self, client: httpx.AsyncClient, form: dict[str, str]) -> dict[str, Any]:
        async with client.stream("POST", self._config.token_endpoint(self._servers.url), data=form) as response:
            if response.status_code != httpx.codes.OK:
                raise PollFailed(f"token endpoint returned status {response.status_code}")
            try:
                return _json.parse_object(await read_body(response, MAX_TOKEN_BYTES))
            except ValueError:
                raise PollFailed("token response is not a JSON object") from None

    def _observe(self, outcome: str, sent_at: float, number: int | None) -> None:
        if self._observer is not None:
            with harmless():
                self._observer.followed(self._issuer, outcome, self._clock() - sent_at, number)

    def _note_answer(self, answer: feed.Answer, sent_at: float) -> None:
        if self._backoff.logged is not None:
            _log.info("revocation feed recovered", extra={"issuer": self._issuer})
        self._backoff.reset()
        self._servers.succeeded()
        self._observe("updated" if answer.revocations or answer.page is not None else "unchanged", sent_at, answer.head)

    def _note_failure(self, reason: str, outcome: str, started_at: float) -> float:
        """Record a failure, and return the seconds until the retry."""
        self._observe(outcome, started_at, None)
        delay = self._backoff.fail(started_at, RETRY_DELAYS)
        context = {"issuer": self._issuer, "reason": reason}
        if outcome == "rejected" and self._backoff.logged != reason:
            self._backoff.logged = reason
            _log.error("revocation feed rejected", extra=context)
        elif self._backoff.is_warning_due():
            self._backoff.logged = reason
            _log.warning("revocation feed unavailable", extra=context)
        self._servers.failed()
        return 0.0 if self._servers.have_another else delay
