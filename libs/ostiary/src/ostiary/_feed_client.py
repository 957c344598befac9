"""A background task that follows an issuer's revocation feed by long polls.

It asks again as soon as it has an answer: what it asks for acknowledges what it has applied, so the
issuer knows who has which revocation. A question waits for news only so long that the answer to it
still counts as fresh for the strictest of those who ask this verifier.
"""

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from ostiary import _json, feed
from ostiary._addresses import check_address
from ostiary._clock import suspend_aware_clock
from ostiary._polling import Backoff, Poller, PollFailed, read_body
from ostiary._revocations import Revocations
from ostiary._source import KeySource
from ostiary.errors import KeysUnavailable, UnknownKey
from ostiary.feed import FeedFault
from ostiary.observer import Observer, harmless

_log = logging.getLogger("ostiary.revocations")

#: A question waits for news for this share of the strictest bound on its age, and counts as lost after one more: after
#: a poll that was answered when its time was up and one that was lost, there is a quarter left for a new try. Where
#: answers take longer than that, they are waited for longer, up to this share of the laxest bound.
SHARE = 1 / 4

#: Seconds that a question waits at least and at most, and beyond that until it is lost at most.
MIN_WAIT = 0.05
MAX_WAIT = 10.0
MAX_ANSWER_SECONDS = 10.0

#: Seconds for fetching a token and for saying good-bye.
TOKEN_TIMEOUT = 5.0
LEAVE_TIMEOUT = 1.0

#: A token for the feed is renewed after this share of its life.
TOKEN_RENEWAL_SHARE = 0.8

#: Seconds of pause after a failure: from the first, doubling, up to the last.
RETRY_DELAYS = (0.05, 1.0)

#: Seconds of pause when an answer came at once and brought nothing new.
IDLE_PAUSE = 0.05

#: With something random added, it is what the feed takes.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}\Z")

#: Bytes of a token endpoint's answer.
MAX_TOKEN_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where an issuer says what it has revoked, and as which of its clients to ask; the client has scope `feed:read`.

    url:           the feed.
    client_id:     the client to ask as.
    client_secret: its secret, or
    secret_file:   the file that holds it; it is read anew for each token, so the secret may change, or come later.
    token_url:     where the issuer gives out tokens; by default, `/oauth/token` on the feed's host.
    name:          what this verifier is called in the issuer's list of verifiers; something random is added.
    """

    url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    secret_file: str | Path | None = None
    token_url: str | None = None
    name: str = "verifier"

    def __post_init__(self) -> None:
        """Refuse what has no secret, or two."""
        if bool(self.client_secret) == bool(self.secret_file):
            raise ValueError("a feed needs client_secret or secret_file")
        if _NAME.match(self.name) is None:
            raise ValueError("a feed's name must be 1 to 40 of A-Z, a-z, 0-9, '.', '_' and '-'")
        if "?" in self.url or "#" in self.url:
            raise ValueError("a feed's url must have no query or fragment")

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from."""
        parts = urlsplit(self.url)
        return self.token_url or urlunsplit((parts.scheme, parts.netloc, "/oauth/token", "", ""))

    def secret(self) -> str:
        """Return the secret. Raises OSError or ValueError if its file cannot be read."""
        return self.client_secret or Path(self.secret_file or "").read_text(encoding="utf-8").rstrip("\r\n")


class FeedClient(Poller):
    """The revocations of an issuer that has a feed. A RevocationSource."""

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
        """Make the follower; nothing is asked until it is entered.

        `bounds` are the ages, in seconds, that those who ask this verifier bear; more may be added at any time.
        `transport` and `clock` are for tests.

        Raises ValueError for addresses that a secret must not go to.
        """
        for address in (config.url, config.token_endpoint):
            check_address(address, allow_insecure=allow_insecure)
        super().__init__("ostiary-revocations", config.url, config.token_endpoint, transport=transport)
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
        self._token_ends_at = 0.0
        #: Seconds beyond its wait until a question counts as lost; at first there is nothing to lose.
        self._patience = MAX_ANSWER_SECONDS
        #: Answers in a row that named other keys than those held.
        self._outdated = 0

    async def __aenter__(self) -> Self:
        """Start following; returns when the first question has been answered or has failed."""
        # Here and not before: what was made before a server forked its workers is none of them.
        self._id = f"{self._config.name}-{secrets.token_hex(8)}"
        return await super().__aenter__()

    async def _stop(self, client: httpx.AsyncClient) -> None:
        # The issuer stops counting on this verifier, so nothing is accepted from here on.
        self.revocations.fresh_at = -math.inf
        with suppress(Exception):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                headers = {"Authorization": f"Bearer {self._token}"}
                await client.delete(self._config.url, params={"verifier": self._id}, headers=headers)

    def _is_catching_up(self) -> bool:
        return self._backoff.failures == 0 and not self.revocations.complete

    @property
    def _wait(self) -> float:
        """How long a question waits for news."""
        return max(MIN_WAIT, min([MAX_WAIT, *(bound * SHARE for bound in tuple(self._bounds))]))

    @property
    def _most_patience(self) -> float:
        """How long a question is waited for beyond its own wait, at most."""
        return max(self._wait, min([MAX_ANSWER_SECONDS, *([max(self._bounds) * SHARE] if self._bounds else [])]))

    async def _poll(self, client: httpx.AsyncClient) -> float:
        """Ask once, apply the answer, and return the seconds until the next question."""
        started_at = self._clock()
        try:
            return await self._ask(client)
        except UnknownKey:
            # A key that is not known yet: the issuer's keys have changed.
            self._keys.report_new_keys()
            return self._note_failure("signed with an unknown key", "failed", started_at)
        except FeedFault as error:
            return self._note_failure(str(error), "refused", started_at)
        except (PollFailed, KeysUnavailable) as error:
            return self._note_failure(str(error), "failed", started_at)
        except TimeoutError:
            self._patience = min(2 * self._patience, self._most_patience)
            return self._note_failure("no answer in time", "failed", started_at)
        except Exception as error:  # noqa: BLE001 - whatever a hostile network brings about, the follower goes on
            return self._note_failure(type(error).__name__, "failed", started_at)

    async def _ask(self, client: httpx.AsyncClient) -> float:
        keys = self._keys.current()
        await self._renew_token(client)
        lease, position = max(tuple(self._bounds), default=None), self.revocations.position
        # Who knows nothing yet, or has missed an answer, does not wait for news on top.
        wait = 0.0 if self._backoff.failures or not self.revocations.complete else self._wait
        question: dict[str, str | int] = {
            "epoch": position.epoch if position else "",
            "after": position.number if position else 0,
            "wait": int(wait * 1000),
            "verifier": self._id,
            "keys": keys.version,
        }
        if lease is not None:
            question["lease"] = math.ceil(lease * 1000)
        request_id = secrets.token_hex(8)
        # What is new is new as of now, before the question is on its way.
        asked_at = self._clock()
        async with asyncio.timeout(wait + self._patience):
            text = await self._get(client, question, request_id)
        answer = feed.read(text, self._issuer, self._keys.current(), self.revocations.revoked_kids)
        self.revocations.apply(answer, asked_at, math.inf if lease is None else lease)
        self._note_answer(answer, asked_at)
        late = self._clock() - asked_at - wait
        self._patience = min(max(self._wait, 2 * late), self._most_patience)
        if answer.keys != self._keys.current().version:
            # Asked again, it is answered at once; and a cache on the way may keep the old ones for a while.
            self._keys.report_new_keys()
            self._outdated += 1
            return min(self._wait, IDLE_PAUSE * 2.0 ** min(self._outdated, 16))
        self._outdated = 0
        quick = self._clock() - asked_at < min(wait, IDLE_PAUSE)
        return IDLE_PAUSE if quick and not answer.revocations else 0.0

    async def _get(self, client: httpx.AsyncClient, question: Mapping[str, str | int], request_id: str) -> str:
        """Return the body of an answer to this question. Raises PollFailed or FeedFault."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": feed.MEDIA_TYPE,
            "Accept-Encoding": "identity",
            "Cache-Control": "no-store",
            "X-Request-ID": request_id,
        }
        async with client.stream("GET", self._config.url, params=question, headers=headers) as response:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._token = ""
            if response.status_code != httpx.codes.OK:
                raise PollFailed(f"status {response.status_code}")
            if response.headers.get("X-Request-ID") != request_id:
                # Something on the way repeats answers or mixes them up.
                raise FeedFault("the answer to another request")
            if response.headers.get("Content-Type") != feed.MEDIA_TYPE:
                raise PollFailed("not a feed")
            return (await read_body(response, feed.MAX_ANSWER_LENGTH)).decode("ascii", "replace")

    async def _renew_token(self, client: httpx.AsyncClient) -> None:
        """Have a token that is good for a while (RFC 6749 section 4.4). Raises PollFailed."""
        if self._token and self._clock() < self._token_ends_at:
            return
        try:
            secret = self._config.secret()
        except (OSError, ValueError) as error:
            raise PollFailed(f"the client's secret cannot be read: {type(error).__name__}") from None
        form = {
            "grant_type": "client_credentials",
            "scope": feed.SCOPE,
            "client_id": self._config.client_id,
            "client_secret": secret,
        }
        asked_at = self._clock()
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT):
                granted = await self._request_token(client, form)
        except TimeoutError:
            raise PollFailed("no token for the feed: no answer in time") from None
        token, lifetime = granted.get("access_token"), granted.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not isinstance(lifetime, int):
            raise PollFailed("no token for the feed: not in the form of RFC 6749 section 5.1")
        self._token, self._token_ends_at = token, asked_at + lifetime * TOKEN_RENEWAL_SHARE

    async def _request_token(self, client: httpx.AsyncClient, form: dict[str, str]) -> dict[str, Any]:
        async with client.stream("POST", self._config.token_endpoint, data=form) as response:
            if response.status_code != httpx.codes.OK:
                raise PollFailed(f"no token for the feed: status {response.status_code}")
            try:
                return _json.parse_object(await read_body(response, MAX_TOKEN_BYTES))
            except ValueError:
                raise PollFailed("no token for the feed: not JSON") from None

    def _observe(self, outcome: str, asked_at: float, number: int | None) -> None:
        if self._observer is not None:
            with harmless():
                self._observer.followed(self._issuer, outcome, self._clock() - asked_at, number)

    def _note_answer(self, answer: feed.Answer, asked_at: float) -> None:
        if self._backoff.logged is not None:
            _log.info("revocations are followed again", extra={"issuer": self._issuer})
        self._backoff.reset()
        self._observe("news" if answer.revocations else "quiet", asked_at, answer.head)

    def _note_failure(self, reason: str, outcome: str, started_at: float) -> float:
        """Log and count a failure, and return the pause after it."""
        self._observe(outcome, started_at, None)
        delay = self._backoff.fail(started_at, RETRY_DELAYS)
        about = {"issuer": self._issuer, "reason": reason}
        if outcome == "refused" and self._backoff.logged != reason:
            self._backoff.logged = reason
            _log.error("the revocation feed is refused; what asks for fresh revocations gets 503", extra=about)
        elif self._backoff.is_warning_due():
            self._backoff.logged = reason
            _log.warning("revocations cannot be followed, retrying", extra=about)
        return delay
