"""What a server that has the keys itself reads of its own tokens, and of JWTs of its clients."""

import base64

import jwt as pyjwt
import pytest

from ostiary import KeySet, errors
from ostiary.jwt import DEFAULT_LEEWAY, IssuedToken, parse, read_issued
from ostiary.testing import Issuer

MAX_LENGTH = 1000
HEADER, CLAIMS = '{"alg":"ES256"}', '{"sub":"a"}'


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def read(issuer: Issuer, token: str) -> IssuedToken:
    return read_issued(token, issuer.issuer, KeySet.from_json(issuer.jwks()))


class TestIssuedTokens:
    def test_a_token_is_read_for_any_audience_and_with_its_claims_as_signed(self, issuer: Issuer) -> None:
        token = issuer.token(claims={"aud": "billing", "note": "x"})
        issued = read(issuer, token)
        assert issued.claims == pyjwt.decode(token, options={"verify_signature": False})
        assert (issued.token.audience, issued.token.claims) == (frozenset({"billing"}), {"note": "x"})

    def test_its_time_is_checked_by_the_caller(self, issuer: Issuer) -> None:
        token = read(issuer, issuer.token(claims={"iat": 100, "nbf": 100, "exp": 1000})).token
        token.check_time(999 + DEFAULT_LEEWAY, DEFAULT_LEEWAY)
        with pytest.raises(errors.Expired):
            token.check_time(1000 + DEFAULT_LEEWAY, DEFAULT_LEEWAY)

    def test_what_is_no_token_of_this_issuer_is_refused(self, issuer: Issuer) -> None:
        with pytest.raises(errors.UnknownKey):
            read(issuer, issuer.token(header={"kid": "other"}))
        with pytest.raises(errors.BadSignature):
            read(issuer, issuer.token()[:-4] + "AAAA")
        with pytest.raises(errors.WrongIssuer):
            read(issuer, issuer.token(claims={"iss": "https://other.example"}))
        with pytest.raises(errors.Malformed):
            read(issuer, issuer.token() + "==")


class TestParsing:
    def test_any_algorithm_and_type_are_read(self) -> None:
        signed = parse(f"{encoded(HEADER)}.{encoded(CLAIMS)}.AAAA", MAX_LENGTH)
        assert (signed.header, signed.claims, signed.signature) == ({"alg": "ES256"}, {"sub": "a"}, bytes(3))

    @pytest.mark.parametrize(
        ("header", "claims", "signature"),
        [
            ('{"alg":"ES256","alg":"ES256"}', "{}", "AAAA"),
            ('{"alg":"ES256","crit":["b64"]}', "{}", "AAAA"),
            (HEADER, '{"iss":"a","iss":"a"}', "AAAA"),
            (HEADER, '{"exp":NaN}', "AAAA"),
            (HEADER, "[]", "AAAA"),
            (HEADER, "{} ", "AAAA"),
            (HEADER, "{}", "AA=="),
            (HEADER, "{}", "AB"),
            (HEADER, "{}", ""),
        ],
    )
    def test_what_two_parsers_could_read_differently_is_refused(self, header: str, claims: str, signature: str) -> None:
        with pytest.raises(errors.Malformed):
            parse(f"{encoded(header)}.{encoded(claims)}.{signature}", MAX_LENGTH)

    def test_a_token_has_a_length(self) -> None:
        with pytest.raises(errors.TooLarge):
            parse("x" * (MAX_LENGTH + 1), MAX_LENGTH)
