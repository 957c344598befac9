"""Ostiary: verifies JWT access tokens with cached public keys, strictly and without I/O on the request path."""

from ostiary import errors
from ostiary._keyset import InvalidKeySet, KeySet
from ostiary._remote import RemoteKeys
from ostiary._source import KeySource, LocalKeys
from ostiary._token import VerifiedToken
from ostiary._verifier import Verifier, VerifierConfig

__all__ = [
    "InvalidKeySet",
    "KeySet",
    "KeySource",
    "LocalKeys",
    "RemoteKeys",
    "VerifiedToken",
    "Verifier",
    "VerifierConfig",
    "errors",
]
