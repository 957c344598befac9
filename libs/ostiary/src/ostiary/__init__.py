"""Ostiary: verifies JWT access tokens with cached public keys, strictly and without I/O on the request path."""

from ostiary import errors
from ostiary._keyset import InvalidKeySet, KeySet
from ostiary._remote import RemoteKeys
from ostiary._source import KeySource, LocalKeys
from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier, VerifierConfig
from ostiary.observer import Observer
from ostiary.sync import SyncVerifier

__all__ = [
    "InvalidKeySet",
    "KeySet",
    "KeySource",
    "LocalKeys",
    "Observer",
    "RemoteKeys",
    "SyncVerifier",
    "VerifiedToken",
    "Verifier",
    "VerifierConfig",
    "errors",
]
