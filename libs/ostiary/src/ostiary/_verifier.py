"""The verifier: one object per process that tells good access tokens from all others."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Self

from ostiary import _jws
from ostiary._cache import AcceptedIssuer, CacheEntry, TokenCache, cache_key
from ostiary._revocations import names_of
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
from ostiary.feed import Position
from ostiary.observer import Observer

if TYPE_CHECKING:
    from ostiary._feed_client import Feed

#: Tokens that are remembered by default: some 15 MB, and more callers than one process serves in 15 minutes.
REMEMBERED_TOKENS = 10_000

#: Seconds of leeway at most; RFC 7519 section 4.1.4 says "no more than a few minutes".
MAX_LEEWAY = 60.0

#: Seconds by which revocations may be out of date by default; at least, as a poll takes some time; and at most, as the
#: issuer waits for it.
MAX_STALENESS = 30.0
MIN_STALENESS = 0.2
LONGEST_STALENESS = 3600.0

#: Seconds that a request waits for this verifier to have come as far as the gateway that let it in.
REACH_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierConfig:
    """One issuer, and which of its tokens are accepted.

    issuer:         `iss` must be exactly this.
    audience:       `aud` must name this.
    jwks_url:       where the issuer publishes its keys; by default, where its metadata say (RFC 8414).
    key_source:     where else keys come from, instead of a URL.
    feed:           where the issuer says which tokens it has revoked. Without it, tokens are good until they expire.
    revocation_source: where else revocations come from, instead of a feed.
    leeway:         seconds by which the clocks of issuer and verifier may differ.
    allow_insecure: let keys come over plain http from public addresses. Whoever is on the way can then sign.
    last_good:      a file that keeps the last good keys, for restarts while the issuer is away.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    key_source: KeySource | None = None
    feed: "Feed | None" = None
    revocation_source: RevocationSource | None = None
    leeway: float = 5.0
    allow_insecure: bool = False
    last_good: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a configuration that would accept anything, or that says two things."""
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience must not be empty")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway must be 0 to {MAX_LEEWAY:.0f} seconds")
        if self.key_source is not None and self.jwks_url is not None:
            raise ValueError("jwks_url and key_source must not both be given")
        if self.feed is not None and self.revocation_source is not None:
            raise ValueError("feed and revocation_source must not both be given")


class Presented:
    """A token as somebody shows it again and again, to one verifier, with what that has found out about it.

    So it need not be looked for. What can change (time, keys, revocations) is looked at each time all the same.
    """

    __slots__ = ("_name", "entry", "token", "verifier")

    def __init__(self, verifier: "Verifier", token: str) -> None:
        """Nothing is known of it yet."""
        self.verifier = verifier
        self.token = token
        self.entry: CacheEntry | None = None
        self._name = b""

    @property
    def name(self) -> bytes:
        """The name under which it is remembered."""
        if not self._name:
            self._name = cache_key(self.token)
        return self._name


class Verifier:
    """Verifies access tokens by itself, with public keys held in memory.

    Use it as an async context manager; between entering and leaving, its keys and revocations are kept fresh.
    """

    def __init__(
        self,
        *configs: VerifierConfig,
        remember: int = REMEMBERED_TOKENS,
        max_staleness: float | None = MAX_STALENESS,
        observer: Observer | None = None,
    ) -> None:
        """Make a verifier of one or more issuers, each with its own keys and revocations.

        `remember` is how many verified tokens are kept, so that seeing one again costs next to nothing; 0 keeps none.
        `max_staleness` is how many seconds old revocations may be, where they are followed: a logout is in force here
        by then, whatever breaks. With None, tokens are accepted without hearing from the issuer until they expire.

        Raises ValueError without an issuer, for two configurations of one, or for a bound that is not 0.2 to 3600 s.
        """
        self._max_staleness = None if max_staleness is None else _checked(max_staleness)
        # Shared with those who follow revocations: the strictest says how often they ask.
        self._bounds = {max_staleness} if max_staleness is not None else set()
        self._running_parts: list[KeySource | RevocationSource] = []
        self._issuers = {config.issuer: self._at_run_time(config, observer) for config in configs}
        if not configs or len(self._issuers) != len(configs):
            raise ValueError("a verifier needs one configuration for each of its issuers, and one issuer at least")
        self._cache = TokenCache(remember) if remember > 0 else None
        self._observer = observer
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start keeping keys and revocations; returns once the first fetches have succeeded or failed."""
        for part in self._running_parts:
            await self._running.enter_async_context(part)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop keeping them."""
        await self._running.aclose()

    @property
    def ready(self) -> bool:
        """Whether keys and a first full set of revocations of all issuers are held, so that `verify` can decide.

        Where tokens are accepted however old the revocations are, keys will do.
        """
        held = True
        try:
            for issuer in self._issuers.values():
                issuer.source.current()
                if issuer.revocations is not None and self._max_staleness is not None:
                    held = held and issuer.revocations.complete
        except KeysUnavailable:
            return False
        return held

    def require_staleness(self, max_staleness: float | EllipsisType | None) -> float | None:
        """Note and return the bound with which a route will ask; `...` is the verifier's own.

        Said before the first request, it is kept to from the first on. Raises ValueError for one that cannot be kept.
        """
        if isinstance(max_staleness, EllipsisType):
            return self._max_staleness
        if max_staleness is not None and max_staleness not in self._bounds:
            if any(issuer.revocations is None for issuer in self._issuers.values()):
                raise ValueError("max_staleness needs a feed: without one, nothing is known of revocations")
            self._bounds.add(_checked(max_staleness))
        return max_staleness

    def verify(
        self, token: str | Presented, *, now: float | None = None, max_staleness: float | EllipsisType | None = ...
    ) -> VerifiedToken:
        """Return what the token says if it is good at `now` (seconds since the epoch; by default the present).

        `max_staleness` is how many seconds old revocations may be, None for any age; by default, the verifier's own.

        Does no I/O, and may be called from several threads. Raises a TokenError if the token is at fault,
        KeysUnavailable if this process holds no keys of its issuer, and RevocationStale if it cannot tell whether
        the token has been revoked meanwhile.
        """
        presented = token if isinstance(token, Presented) else Presented(self, token)
        if presented.verifier is not self:
            raise ValueError("this token was presented to another verifier")
        bound = self.require_staleness(max_staleness)
        if now is None:
            now = time.time()
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
        """Return a token for `verify`, from somebody who is expected to show it again, as on the same connection."""
        return Presented(self, token)

    def position(self, token: VerifiedToken) -> str | None:
        """Return which of its issuer's revocations have been considered here, for services behind this one.

        They get it in the header field `Ostiary-Position`. None if this issuer's revocations are not followed.
        """
        revocations = self._issuers[token.issuer].revocations
        return str(revocations.position) if revocations is not None and revocations.position is not None else None

    async def reach(self, position: str) -> None:
        """Wait until the revocations that a gateway has considered are known here, for 50 ms at most.

        Whoever lets a request in after a gateway has, must not know less. Raises RevocationStale.
        """
        wanted = Position.parse(position)
        followed = [issuer.revocations for issuer in self._issuers.values() if issuer.revocations is not None]
        if not followed:
            return
        if wanted is None:
            raise RevocationStale("no position")
        for revocations in followed:
            if len(followed) == 1 or (revocations.position and revocations.position.epoch == wanted.epoch):
                await revocations.reach(wanted, REACH_SECONDS)
                return
        raise RevocationStale("another log's position")

    def watch(
        self,
        token: VerifiedToken,
        on_end: Callable[[OstiaryError], None],
        *,
        max_staleness: float | EllipsisType | None = ...,
        grace: float = 0.0,
    ) -> Watch:
        """Return a context manager, for the event loop, in which `on_end` is called when a token stops being good.

        That is when it is revoked, when it expires, and when revocations get older than `max_staleness`; `grace`
        seconds later, for what may end by itself.
        """
        issuer, bound, names = self._issuers[token.issuer], self.require_staleness(max_staleness), names_of(token)
        revocations = issuer.revocations

        def check() -> float:
            now = time.time()
            token.check_time(now, issuer.leeway)
            good_for = token.expires_at + issuer.leeway - now
            if revocations is not None:
                revocations.check(token, lambda: names)
                if bound is not None:
                    if not revocations.bears(bound):
                        raise RevocationStale
                    good_for = min(good_for, bound - revocations.age())
            return good_for

        def subscribe(look: Callable[[], None]) -> Callable[[], None]:
            return revocations.watch(token, look) if revocations is not None else lambda: None

        return Watch(check, subscribe, on_end, grace)

    def _verify(self, presented: Presented, now: float, bound: float | None) -> tuple[VerifiedToken, str]:
        entry = presented.entry or self._recall(presented)
        if entry is not None:
            if entry.issuer.source.current() is entry.keys:
                try:
                    entry.token.check_time(now, entry.issuer.leeway)
                    _check_revocations(entry, bound)
                except (Expired, Revoked):
                    self._forget(presented)
                    raise
                return entry.token, "remembered"
            self._forget(presented)
        entry = self._verify_anew(presented.token, now)
        _check_revocations(entry, bound)
        if self._cache is not None:
            self._cache.put(presented.name, entry)
            presented.entry = entry
        return entry.token, "verified"

    def _recall(self, presented: Presented) -> CacheEntry | None:
        if self._cache is None:
            return None
        if len(presented.token) > _jws.MAX_TOKEN_LENGTH:
            raise TooLarge("token")
        presented.entry = self._cache.get(presented.name)
        return presented.entry

    def _forget(self, presented: Presented) -> None:
        presented.entry = None
        if self._cache is not None:
            self._cache.drop(presented.name)

    def _verify_anew(self, token: str, now: float) -> CacheEntry:
        jws = _jws.parse(token)
        # The issuer that the token names decides which keys are looked at, and no others (RFC 8725 section 3.8).
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

    def _at_run_time(self, config: VerifierConfig, observer: Observer | None) -> AcceptedIssuer:
        keys = config.key_source or _jwks_keys(config, observer)
        source = config.revocation_source
        if config.feed is not None:
            source = _feed_client(config, config.feed, keys, self._bounds, observer)
        # Keys first: revocations are signed.
        self._running_parts += [keys] if source is None else [keys, source]
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
    from ostiary._jwks import RemoteKeys  # noqa: PLC0415 - its HTTP client is a large import; see the package

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
    """Hold a token against what its issuer has revoked. Raises Revoked, and RevocationStale if that is too old."""
    revocations = entry.issuer.revocations
    if revocations is None:
        return
    # In this order: what comes in between makes the knowledge fresher, and is not looked at.
    is_fresh = max_staleness is None or revocations.bears(max_staleness)
    version = revocations.version
    if entry.checked != version:
        revocations.check(entry.token, entry.names)
        entry.checked = version
    if not is_fresh:
        raise RevocationStale


def _checked(max_staleness: float) -> float:
    if not MIN_STALENESS <= max_staleness <= LONGEST_STALENESS:
        raise ValueError(f"max_staleness must be {MIN_STALENESS} to {LONGEST_STALENESS:.0f} seconds, or None for any")
    return max_staleness
