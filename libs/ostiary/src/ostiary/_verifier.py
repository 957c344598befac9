"""The verifier: one object per process that decides whether access tokens are valid."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Self

from ostiary import _jws
from ostiary._cache import AcceptedIssuer, CacheEntry, TokenCache, cache_key
from ostiary._clock import date_clock
from ostiary._revocations import Names
from ostiary._source import KeySource, RevocationSource
from ostiary._token import VerifiedToken, read_claims
from ostiary._watch import Watch
from ostiary.errors import (
    Expired,
    KeysUnavailable,
    MissingClaim,
    OstiaryError,
    RevocationStale,
    Revoked,
    TooLarge,
    UnknownKey,
    WrongIssuer,
)
from ostiary.observer import Observer

if TYPE_CHECKING:
    from ostiary._feed_client import Feed

#: Tokens in the cache by default: some 15 MB, and more callers than one process serves in 15 minutes.
CACHED_TOKENS = 10_000

#: Seconds by which the clocks of issuer and verifier may differ, by default.
DEFAULT_LEEWAY = 5.0

#: Seconds of leeway at most; RFC 7519 section 4.1.4 says "no more than a few minutes".
MAX_LEEWAY = 60.0

#: Seconds that revocations may be out of date: by default; at least, as a poll takes some time; and at most, as the
#: issuer has to wait as long for a verifier that is gone.
MAX_STALENESS = 30.0
MIN_STALENESS = 0.2
LONGEST_STALENESS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierConfig:
    """An issuer, and which of its tokens are accepted.

    issuer:            `iss` must be exactly this.
    audience:          `aud` must contain this.
    jwks_url:          the URL of the issuer's key set, or several, as in `Feed`; by default, the one in its metadata
                       (RFC 8414).
    key_source:        a source of keys instead of a URL.
    feed:              the issuer's revocation feed. Without one, tokens are valid until they expire.
    revocation_source: a source of revocations instead of a feed.
    leeway:            seconds by which the clocks of issuer and verifier may differ.
    allow_insecure:    fetch keys over plain http from public addresses. An attacker on the path can then sign tokens.
    last_good:         a file that stores the last good key set, for restarts while the issuer is down.
    """

    issuer: str
    audience: str
    jwks_url: str | Sequence[str] | None = None
    key_source: KeySource | None = None
    feed: "Feed | None" = None
    revocation_source: RevocationSource | None = None
    leeway: float = DEFAULT_LEEWAY
    allow_insecure: bool = False
    last_good: Path | None = None

    def __post_init__(self) -> None:
        """Reject a configuration that would accept anything, or that contradicts itself."""
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience must not be empty")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway must be 0 to {MAX_LEEWAY:.0f} seconds")
        if self.key_source is not None and self.jwks_url is not None:
            raise ValueError("jwks_url and key_source must not both be given")
        if self.feed is not None and self.revocation_source is not None:
            raise ValueError("feed and revocation_source must not both be given")


class Presented:
    """A token that a client sends repeatedly to one verifier, with its cache entry.

    It saves the lookup in the cache. What can change (time, keys, revocations) is still checked each time.
    """

    __slots__ = ("_key", "entry", "token", "verifier")

    def __init__(self, verifier: "Verifier", token: str) -> None:
        self.verifier = verifier
        self.token = token
        self.entry: CacheEntry | None = None
        self._key = b""

    @property
    def key(self) -> bytes:
        """The token's key in the cache."""
        if not self._key:
            self._key = cache_key(self.token)
        return self._key


class Verifier:
    """Verifies access tokens locally, with public keys in memory.

    Use it as an async context manager: between entering and leaving, it refreshes its keys and revocations.
    """

    def __init__(
        self,
        *configs: VerifierConfig,
        remember: int = CACHED_TOKENS,
        max_staleness: float | None = MAX_STALENESS,
        observer: Observer | None = None,
        clock: Callable[[], float] = date_clock,
    ) -> None:
        """Verify the tokens of one or more issuers, each with its own keys and revocations.

        `remember` is the size of the cache of verified tokens; 0 disables it. `max_staleness` is the age in seconds
        that the revocations of a feed may have: a logout takes effect here within that time, whatever fails. With
        None, tokens are accepted until they expire while the issuer is unreachable. `clock` returns the seconds since
        the epoch by which tokens begin and expire.

        Raises ValueError without an issuer, for two configurations of one issuer, or for a staleness that is not 0.2
        to 3600 s.
        """
        self._max_staleness = None if max_staleness is None else _checked(max_staleness)
        # Shared with the feed clients: the strictest bound determines how often they poll.
        self._bounds = {max_staleness} if max_staleness is not None else set()
        self._sources: list[KeySource | RevocationSource] = []
        self._issuers = {config.issuer: self._accept(config, observer) for config in configs}
        if not configs or len(self._issuers) != len(configs):
            raise ValueError("a verifier needs at least one issuer, and one configuration for each")
        self._cache = TokenCache(remember) if remember > 0 else None
        self._observer = observer
        self._clock = clock
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the refreshing. Returns when the first fetches have succeeded or failed."""
        for source in self._sources:
            await self._running.enter_async_context(source)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    @property
    def ready(self) -> bool:
        """Whether `verify` can decide now: keys are in memory, and revocations are within the verifier's own bound.

        This holds for all issuers. Without a bound on the age of revocations, keys suffice. Stricter bounds of routes
        do not count.
        """
        return not self.unready_reason

    @property
    def unready_reason(self) -> str:
        """Why `verify` cannot decide now, as a text for logs; empty if it can."""
        for issuer in self._issuers.values():
            try:
                issuer.source.current()
            except KeysUnavailable:
                return f"no keys of {issuer.name} are in memory"
            bound, revocations = self._max_staleness, issuer.revocations
            if bound is not None and revocations is not None and not revocations.is_fresh(bound):
                return f"revocations of {issuer.name} are out of date"
        return ""

    def require_staleness(self, max_staleness: float | EllipsisType | None) -> float | None:
        """Announce the bound of a route, and return it; `...` stands for the verifier's own.

        A bound that is announced before the first request is met from that request on. Raises ValueError for a bound
        that cannot be met.
        """
        if isinstance(max_staleness, EllipsisType):
            return self._max_staleness
        if max_staleness is not None and max_staleness not in self._bounds:
            if any(issuer.revocations is None for issuer in self._issuers.values()):
                raise ValueError("max_staleness needs a feed: without one, no revocations are known")
            self._bounds.add(_checked(max_staleness))
        return max_staleness

    def verify(
        self, token: str | Presented, *, now: float | None = None, max_staleness: float | EllipsisType | None = ...
    ) -> VerifiedToken:
        """Return the verified token if it is valid at `now` (seconds since the epoch; by default the present).

        `max_staleness` is the age in seconds that revocations may have, None for any; by default, the verifier's own.

        Does no I/O, and is thread-safe. Raises a TokenError if the token is invalid, KeysUnavailable if no keys of
        its issuer are in memory, and RevocationStale if the token may have been revoked meanwhile.
        """
        presented = token if isinstance(token, Presented) else Presented(self, token)
        if presented.verifier is not self:
            raise ValueError("this token was presented to another verifier")
        bound = self.require_staleness(max_staleness)
        if now is None:
            now = self._clock()
        if self._observer is None:
            return self._verify(presented, now, bound)[0]
        started_at = time.perf_counter()
        outcome = "failed"
        try:
            verified, outcome = self._verify(presented, now, bound)
        except OstiaryError as error:
            outcome = error.code
            raise
        finally:
            self._observer.verified(outcome, time.perf_counter() - started_at)
        return verified

    def present(self, token: str) -> Presented:
        """Return a token for `verify` that the client is expected to send again, as on the same connection."""
        return Presented(self, token)

    def session_revoked(self, session_id: str) -> bool:
        """Return whether a feed says that a session has ended, for those that hold its id but no token of it.

        It is known until all tokens of the session have expired; only the issuer knows of those before.
        """
        for issuer in self._issuers.values():
            if issuer.revocations is not None and issuer.revocations.has_session(session_id):
                return True
        return False

    def watch(
        self,
        token: VerifiedToken,
        on_end: Callable[[OstiaryError], None],
        *,
        max_staleness: float | EllipsisType | None = ...,
        grace: float = 0.0,
    ) -> Watch:
        """Return a context manager, for the event loop, that calls `on_end` when a token stops being valid.

        That is when it is revoked, when it expires, or when revocations get older than `max_staleness`. `grace` is a
        delay in seconds, for what may end by itself.
        """
        issuer, bound, names = self._issuers[token.issuer], self.require_staleness(max_staleness), Names(token)
        revocations = issuer.revocations

        def check() -> float:
            now = self._clock()
            token.check_time(now, issuer.leeway)
            valid_for = token.expires_at + issuer.leeway - now
            if revocations is not None:
                revocations.check(token, lambda: names)
                if bound is not None:
                    if not revocations.is_fresh(bound):
                        raise RevocationStale
                    valid_for = min(valid_for, bound - revocations.age())
            return valid_for

        def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
            return revocations.watch(token, listener) if revocations is not None else lambda: None

        return Watch(check, subscribe, on_end, grace)

    def _verify(self, presented: Presented, now: float, bound: float | None) -> tuple[VerifiedToken, str]:
        entry = presented.entry or self._look_up(presented)
        if entry is not None:
            if entry.issuer.source.current() is entry.keys:
                try:
                    entry.token.check_time(now, entry.issuer.leeway)
                    _check_revocations(entry, bound)
                except (Expired, Revoked):
                    self._evict(presented)
                    raise
                return entry.token, "cached"
            self._evict(presented)
        entry = self._verify_uncached(presented.token, now)
        _check_revocations(entry, bound)
        if self._cache is not None:
            self._cache.put(presented.key, entry)
            presented.entry = entry
        return entry.token, "verified"

    def _look_up(self, presented: Presented) -> CacheEntry | None:
        if self._cache is None:
            return None
        if len(presented.token) > _jws.MAX_TOKEN_LENGTH:
            raise TooLarge("token")
        presented.entry = self._cache.get(presented.key)
        return presented.entry

    def _evict(self, presented: Presented) -> None:
        presented.entry = None
        if self._cache is not None:
            self._cache.drop(presented.key)

    def _verify_uncached(self, token: str, now: float) -> CacheEntry:
        jws = _jws.parse(token)
        # Only keys of the issuer that the token names are used (RFC 8725 section 3.8).
        issuer = self._issuer_of(jws)
        keys = issuer.source.current()
        try:
            keys.verify(jws.kid, jws.signing_input, jws.signature)
        except UnknownKey:
            issuer.source.report_unknown_key()
            raise
        verified = read_claims(jws.claims, issuer.name, issuer.audience, jws.kid)
        verified.check_time(now, issuer.leeway)
        return CacheEntry(verified, issuer, keys)

    def _accept(self, config: VerifierConfig, observer: Observer | None) -> AcceptedIssuer:
        keys = config.key_source or _jwks_keys(config, observer)
        source = config.revocation_source
        if config.feed is not None:
            source = _feed_client(config, config.feed, keys, self._bounds, observer)
        # Keys first: the feed is signed with them.
        self._sources += [keys] if source is None else [keys, source]
        revocations = source.revocations if source is not None else None
        return AcceptedIssuer(config.issuer, config.audience, config.leeway, keys, revocations)

    def _issuer_of(self, jws: _jws.CompactJws) -> AcceptedIssuer:
        name = jws.claims.get("iss")
        if name is None:
            raise MissingClaim("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise WrongIssuer
        return issuer


def _jwks_keys(config: VerifierConfig, observer: Observer | None) -> KeySource:
    from ostiary._jwks import RemoteKeys  # noqa: PLC0415 - its HTTP client is a large import

    return RemoteKeys(
        config.issuer,
        config.jwks_url,
        allow_insecure=config.allow_insecure,
        last_good=config.last_good,
        observer=observer,
    )


def _feed_client(
    config: VerifierConfig, feed: "Feed", keys: KeySource, bounds: set[float], observer: Observer | None
) -> RevocationSource:
    from ostiary._feed_client import FeedClient  # noqa: PLC0415 - as above

    return FeedClient(config.issuer, feed, keys, bounds, allow_insecure=config.allow_insecure, observer=observer)


def _check_revocations(entry: CacheEntry, max_staleness: float | None) -> None:
    """Raise Revoked, or RevocationStale if the issuer's revocations are too old."""
    revocations = entry.issuer.revocations
    if revocations is None:
        return
    # In this order: a revocation that arrives in between makes the set fresher, but is not checked.
    is_fresh = max_staleness is None or revocations.is_fresh(max_staleness)
    version = revocations.version
    if entry.checked != version:
        revocations.check(entry.token, entry.names)
        entry.checked = version
    if not is_fresh:
        raise RevocationStale


def _checked(max_staleness: float) -> float:
    if not MIN_STALENESS <= max_staleness <= LONGEST_STALENESS:
        raise ValueError(
            f"max_staleness must be {MIN_STALENESS} to {LONGEST_STALENESS:.0f} seconds, or None for any age"
        )
    return max_staleness
