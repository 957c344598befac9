"""The verifier: one object per process that tells good access tokens from all others."""

import time
from dataclasses import dataclass
from typing import Self

from ostiary import _jws
from ostiary._remote import RemoteKeys
from ostiary._source import KeySource
from ostiary._token import ClaimRules, VerifiedToken, check_claims
from ostiary.errors import KeysUnavailable, UnknownKey

#: The media type of a JWT access token (RFC 9068 section 2.1).
_ACCESS_TOKEN_TYPES = frozenset({"at+jwt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierConfig:
    """Which tokens are accepted.

    issuer:   `iss` must be exactly this.
    audience: `aud` must name this.
    jwks_url: where the issuer publishes its keys. None if a key source is handed to the verifier.
    leeway:   seconds by which the clocks of issuer and verifier may differ.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    leeway: float = 5.0

    def __post_init__(self) -> None:
        """Refuse a configuration that would accept anything."""
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience must not be empty")
        if not 0 <= self.leeway <= 60:  # noqa: PLR2004 - a minute; RFC 7519 4.1.4 "no more than a few minutes"
            raise ValueError("leeway must be 0 to 60 seconds")


class Verifier:
    """Verifies access tokens by itself, with public keys held in memory.

    Use it as an async context manager; between entering and leaving, its keys are kept fresh.
    """

    def __init__(self, config: VerifierConfig, *, key_source: KeySource | None = None) -> None:
        """Make a verifier. `key_source` replaces the fetching from `config.jwks_url`."""
        if key_source is None:
            if config.jwks_url is None:
                raise ValueError("a verifier needs a jwks_url or a key_source")
            key_source = RemoteKeys(config.jwks_url)
        self._keys = key_source
        self._rules = ClaimRules(config.issuer, config.audience, config.leeway)

    async def __aenter__(self) -> Self:
        """Start keeping keys; returns once the first fetch has succeeded or failed."""
        await self._keys.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop keeping keys."""
        await self._keys.__aexit__(*exc)

    @property
    def ready(self) -> bool:
        """Whether keys are held, so that `verify` can decide."""
        try:
            self._keys.current()
        except KeysUnavailable:
            return False
        return True

    def verify(self, token: str, *, now: float | None = None) -> VerifiedToken:
        """Return what the token says if it is good at `now` (seconds since the epoch; by default the present).

        Does no I/O. Raises a TokenError if the token is at fault and KeysUnavailable if no keys are held.
        """
        jws = _jws.parse(token, _ACCESS_TOKEN_TYPES)
        try:
            self._keys.current().verify(jws.kid, jws.signing_input, jws.signature)
        except UnknownKey:
            self._keys.report_unknown_key()
            raise
        return check_claims(jws.claims, self._rules, time.time() if now is None else now)
