"""Ostiary: verifies JWT access tokens with cached public keys, strictly and without I/O on the request path."""

from typing import TYPE_CHECKING

from ostiary import errors
from ostiary._keyset import InvalidKeySet, KeySet
from ostiary._revocations import Revocations
from ostiary._source import KeySource, LocalKeys, LocalRevocations, RevocationSource
from ostiary._token import VerifiedToken
from ostiary._verifier import Presented, Verifier, VerifierConfig
from ostiary.observer import Observer
from ostiary.sync import SyncVerifier

if TYPE_CHECKING:
    from ostiary._feed_client import Feed
    from ostiary._jwks import RemoteKeys

__all__ = [
    "Feed",
    "InvalidKeySet",
    "KeySet",
    "KeySource",
    "LocalKeys",
    "LocalRevocations",
    "Observer",
    "Presented",
    "RemoteKeys",
    "RevocationSource",
    "Revocations",
    "SyncVerifier",
    "VerifiedToken",
    "Verifier",
    "VerifierConfig",
    "errors",
]


def __getattr__(name: str) -> object:
    """Import modules that need an HTTP client on first use: an issuer, which verifies with its own keys, never does."""
    if name == "RemoteKeys":
        from ostiary._jwks import RemoteKeys  # noqa: PLC0415 - see above

        return RemoteKeys
    if name == "Feed":
        from ostiary._feed_client import Feed  # noqa: PLC0415 - see above

        return Feed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
