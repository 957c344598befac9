"""Errors keep the original one for tracebacks, also compiled: mypyc ignores `from` in `raise ... from`."""

import traceback
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature

from ostiary import InvalidKeySet, KeySet, _json, _jws
from ostiary.errors import BadSignature, Malformed
from ostiary.testing import Issuer


def verify_a_wrong_signature(issuer: Issuer) -> None:
    KeySet.from_json(issuer.jwks()).verify(issuer.kid, b"input", b"signature")


@pytest.mark.parametrize(
    ("attempt", "expected", "cause"),
    [
        (lambda _: _jws.parse("\u00e9"), Malformed, UnicodeEncodeError),
        (lambda _: _jws.parse("A.A.A"), Malformed, ValueError),
        (lambda _: _json.parse_object(b'{"a":' + b"[" * 100_000), ValueError, RecursionError),
        (lambda _: KeySet.from_json(b"{"), InvalidKeySet, ValueError),
        (verify_a_wrong_signature, BadSignature, InvalidSignature),
    ],
)
def test_a_traceback_shows_the_original_error(
    issuer: Issuer, attempt: Callable[[Issuer], object], expected: type[Exception], cause: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        attempt(issuer)
    assert isinstance(caught.value.__context__, cause)
    assert cause.__name__ in "".join(traceback.format_exception(caught.value))
