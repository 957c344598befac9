"""RFC 7517: keys of other kinds than ours are skipped, and the others are used."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from ostiary import InvalidKeySet, KeySet
from ostiary.testing import Issuer


def document(*keys: object) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def integer(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def test_a_published_key_is_usable(issuer: Issuer) -> None:
    assert list(KeySet.from_json(issuer.jwks()).keys) == [issuer.kid]


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "EC"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"alg": "RS512"},
        {"alg": None},
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"kid": None},
        {"kid": ""},
        {"kid": "k" * 129},
        {"kid": 7},
        {"d": "AQAB"},
        {"n": None},
        {"n": ""},
        {"n": "not base64url!"},
        {"n": "ä"},
        {"e": "AQAB="},
        {"e": integer(65536)},
        {"e": integer(1)},
        {"e": integer(2**80 + 1)},
        {"n": integer(2**8192 + 1)},
    ],
)
def test_an_unusable_key_is_skipped(issuer: Issuer, changes: dict[str, object]) -> None:
    bad = {**issuer.jwk(), "kid": "bad", **changes}
    keys = KeySet.from_json(document(bad, issuer.jwk()))
    assert list(keys.keys) == [issuer.kid]


def test_a_short_key_is_skipped(issuer: Issuer) -> None:
    numbers = generate_private_key(65537, 1024).public_key().public_numbers()
    short = {**issuer.jwk(), "kid": "short", "n": integer(numbers.n)}
    assert list(KeySet.from_json(document(short, issuer.jwk())).keys) == [issuer.kid]


def test_two_keys_of_one_kid_are_both_skipped(issuer: Issuer, stranger: Issuer) -> None:
    other = {**issuer.jwk(), "kid": "other"}
    assert list(KeySet.from_json(document(issuer.jwk(), stranger.jwk(), other)).keys) == ["other"]


@pytest.mark.parametrize("entry", [1, None, "key", [], ["kty"]])
def test_entries_that_are_no_objects_are_skipped(issuer: Issuer, entry: object) -> None:
    assert list(KeySet.from_json(document(entry, issuer.jwk())).keys) == [issuer.kid]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[1]}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":[{"kty":"RSA"',
        json.dumps({"keys": [{}] * 65}).encode(),
    ],
)
def test_a_document_without_a_usable_key_is_no_key_set(raw: bytes) -> None:
    with pytest.raises(InvalidKeySet):
        KeySet.from_json(raw)
