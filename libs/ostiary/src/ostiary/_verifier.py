"""The verifier: one object per process that tells good access tokens from all others."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ostiary import _jws
from ostiary._remembered import AcceptedIssuer, Remembered, RememberedTokens, name_of
from ostiary._source import KeySource
from ostiary._token import VerifiedToken, read_claims
from ostiary.errors import Expired, KeysUnavailable, MissingClaim, OstiaryError, TooLarge, UnknownKey, WrongIssuer
from ostiary.observer import Observer

#: Tokens that are remembered by default: some 15 MB, and more callers than one process serves in 15 minutes.
REMEMBERED_TOKENS = 10_000

#: Seconds of leeway at most; RFC 7519 section 4.1.4 says "no more than a few minutes".
MAX_LEEWAY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierConfig:
    """One issuer, and which of its tokens are accepted.

    issuer:         `iss` must be exactly this.
    audience:       `aud` must name this.
    jwks_url:       where the issuer publishes its keys; by default, where its metadata say (RFC 8414).
    key_source:     where else keys come from, instead of a URL.
    leeway:         seconds by which the clocks of issuer and verifier may differ.
    allow_insecure: let keys come over plain http from public addresses. Whoever is on the way can then sign.
    last_good:      a file that keeps the last good keys, for restarts while the issuer is away.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    key_source: KeySource | None = None
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


class Verifier:
    """Verifies access tokens by itself, with public keys held in memory.

    Use it as an async context manager; between entering and leaving, its keys are kept fresh.
    """

    def __init__(
        self, *configs: VerifierConfig, remember: int = REMEMBERED_TOKENS, observer: Observer | None = None
    ) -> None:
        """Make a verifier of one or more issuers, each with its own keys.

        `remember` is how many verified tokens are kept, so that seeing one again costs next to nothing;
        0 keeps none. Raises ValueError without an issuer, or for two configurations of one.
        """
        self._issuers = {config.issuer: _at_run_time(config, observer) for config in configs}
        if not configs or len(self._issuers) != len(configs):
            raise ValueError("a verifier needs one configuration for each of its issuers, and one issuer at least")
        self._remembered = RememberedTokens(remember) if remember > 0 else None
        self._observer = observer
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start keeping keys; returns once the first fetches have succeeded or failed."""
        for issuer in self._issuers.values():
            await self._running.enter_async_context(issuer.source)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop keeping keys."""
        await self._running.aclose()

    @property
    def ready(self) -> bool:
        """Whether keys of all issuers are held, so that `verify` can decide."""
        try:
            for issuer in self._issuers.values():
                issuer.source.current()
        except KeysUnavailable:
            return False
        return True

    def verify(self, token: str, *, now: float | None = None) -> VerifiedToken:
        """Return what the token says if it is good at `now` (seconds since the epoch; by default the present).

        Does no I/O, and may be called from several threads. Raises a TokenError if the token is at
        fault, and KeysUnavailable if this process holds no keys of its issuer.
        """
        if now is None:
            now = time.time()
        if self._observer is None:
            return self._verify(token, now)[0]
        started_at = time.perf_counter()
        outcome = "failed"
        try:
            verified, outcome = self._verify(token, now)
        except OstiaryError as error:
            outcome = error.code
            raise
        finally:
            self._observer.verified(outcome, time.perf_counter() - started_at)
        return verified

    def _verify(self, token: str, now: float) -> tuple[VerifiedToken, str]:
        if self._remembered is None:
            return self._verify_anew(token, now).token, "verified"
        if len(token) > _jws.MAX_TOKEN_LENGTH:
            raise TooLarge("token")
        name = name_of(token)
        entry = self._remembered.get(name)
        if entry is not None:
            if entry.issuer.source.current() is entry.keys:
                try:
                    entry.token.check_time(now, entry.issuer.leeway)
                except Expired:
                    self._remembered.drop(name)
                    raise
                return entry.token, "remembered"
            self._remembered.drop(name)
        entry = self._verify_anew(token, now)
        self._remembered.put(name, entry)
        return entry.token, "verified"

    def _verify_anew(self, token: str, now: float) -> Remembered:
        jws = _jws.parse(token)
        # The issuer that the token names decides which keys are looked at, and no others (RFC 8725 section 3.8).
        issuer = self._issuer_of(jws)
        keys = issuer.source.current()
        try:
            keys.verify(jws.kid, jws.signing_input, jws.signature)
        except UnknownKey:
            issuer.source.report_unknown_key()
            raise
        verified = read_claims(jws.claims, issuer.name, issuer.audience)
        verified.check_time(now, issuer.leeway)
        return Remembered(verified, issuer, keys)

    def _issuer_of(self, jws: _jws.CompactJws) -> AcceptedIssuer:
        name = jws.claims.get("iss")
        if name is None:
            raise MissingClaim("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise WrongIssuer
        return issuer


def _at_run_time(config: VerifierConfig, observer: Observer | None) -> AcceptedIssuer:
    source = config.key_source or _remote_keys(config, observer)
    return AcceptedIssuer(config.issuer, config.audience, config.leeway, source)


def _remote_keys(config: VerifierConfig, observer: Observer | None) -> KeySource:
    from ostiary._remote import RemoteKeys  # noqa: PLC0415 - its HTTP client is a large import; see the package

    return RemoteKeys(
        config.issuer,
        config.jwks_url,
        allow_insecure=config.allow_insecure,
        last_good=config.last_good,
        observer=observer,
    )
