"""RFC 7515: only the one canonical compact serialisation, before any cryptography."""

import base64
import json

import pytest

from ostiary import errors
from ostiary._jws import MAX_TOKEN_LENGTH, parse
from ostiary.testing import Issuer


def segment(data: bytes | dict[str, object]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def with_header(**changes: object) -> str:
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "k", **changes}
    return f"{segment(header)}.{segment({})}.{segment(b'signature')}"


def with_raw(header: bytes = b'{"alg":"RS256","typ":"at+jwt","kid":"k"}', payload: bytes = b"{}") -> str:
    return f"{segment(header)}.{segment(payload)}.{segment(b's')}"


def test_a_well_formed_token_is_taken_apart(issuer: Issuer) -> None:
    token = issuer.token(subject="u1")
    jws = parse(token)
    assert jws.kid == issuer.kid
    assert jws.claims["sub"] == "u1"
    assert jws.signing_input == token.rpartition(".")[0].encode()
    assert len(jws.signature) == 256


class TestCompactSerialisation:
    """RFC 7515 section 7.1."""

    @pytest.mark.parametrize(
        "token", ["", ".", "..", "a.b", "a.b.c.d", "a.b.c.d.e", "...", " ", "Bearer", '{"payload":"","signature":""}']
    )
    def test_other_than_three_segments_is_refused(self, token: str) -> None:
        with pytest.raises(errors.Malformed):
            parse(token)

    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize("change", ["{}=", "{}==", " {}", "{} ", "{}\n", "+{}", "/{}", "{}\x00", "{}é"])
    def test_a_segment_that_is_not_canonical_base64url_is_refused(
        self, issuer: Issuer, position: int, change: str
    ) -> None:
        segments = issuer.token().split(".")
        segments[position] = change.format(segments[position])
        with pytest.raises(errors.Malformed):
            parse(".".join(segments))

    def test_spare_bits_that_are_not_zero_are_refused(self, issuer: Issuer) -> None:
        head, payload, signature = issuer.token().split(".")
        # 256 bytes leave four spare bits in the last character; its canonical values are A, Q, g, w.
        assert signature[-1] in "AQgw"
        with pytest.raises(errors.Malformed):
            parse(f"{head}.{payload}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}")

    def test_a_token_over_the_limit_is_refused_before_it_is_read(self) -> None:
        with pytest.raises(errors.TooLarge):
            parse("é" * (MAX_TOKEN_LENGTH + 1))

    def test_a_header_over_the_limit_is_refused(self) -> None:
        with pytest.raises(errors.TooLarge):
            parse(with_header(x="x" * 1000))


class TestHeader:
    """RFC 7515 section 4, RFC 8725 sections 3.1 and 3.11."""

    @pytest.mark.parametrize(
        "alg",
        ["none", "None", "NONE", "nOnE", "", "HS256", "RS384", "PS256", "ES256", "EdDSA", "rs256", 1, None, ["RS256"]],
    )
    def test_any_algorithm_but_rs256_is_refused(self, alg: object) -> None:
        with pytest.raises(errors.UnsupportedAlg):
            parse(with_header(alg=alg))

    @pytest.mark.parametrize("name", ["crit", "b64", "zip", "enc"])
    def test_members_that_change_how_a_token_is_read_are_refused(self, name: str) -> None:
        with pytest.raises(errors.Malformed):
            parse(with_header(**{name: ["exp"]}))

    @pytest.mark.parametrize("typ", ["JWT", "jwt", "", "ostiary-feed+jwt", "application/jwt", None, 1, ["at+jwt"]])
    def test_any_type_but_that_of_an_access_token_is_refused(self, typ: object) -> None:
        with pytest.raises(errors.WrongType):
            parse(with_header(typ=typ))

    @pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"])
    def test_the_type_is_a_media_type_without_case(self, typ: str) -> None:
        assert parse(with_header(typ=typ)).kid == "k"

    @pytest.mark.parametrize("kid", ["", None, 1, ["k"], {"k": 1}, "k" * 129])
    def test_a_kid_that_is_not_a_short_string_is_refused(self, kid: object) -> None:
        with pytest.raises(errors.Malformed):
            parse(with_header(kid=kid))

    def test_keys_inside_the_token_are_not_looked_at(self, issuer: Issuer, stranger: Issuer) -> None:
        header = {"jwk": {"kty": "RSA", "n": "AQAB"}, "jku": "http://127.0.0.1/", "x5u": "http://127.0.0.1/"}
        token = stranger.token(header=header)
        with pytest.raises(errors.BadSignature):
            issuer.verifier().verify(token)


class TestStrictJson:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"[]",
            b'"x"',
            b"1",
            b"null",
            b"{",
            b"{}{}",
            b"{'a':1}",
            b'\xef\xbb\xbf{"sub":"u"}',
            '{"sub":"u"}'.encode("utf-16"),
            b'{"sub":"\xff"}',
            b'{"sub":"a","sub":"b"}',
            b'{"a":{"b":1,"b":2}}',
            b'{"exp":NaN}',
            b'{"exp":Infinity}',
            b'{"exp":-Infinity}',
            b'{"sub":"\\ud800"}',
            b'{"\\udc00":1}',
            b"[" * 5000,
            b'{"a":' * 1000,
        ],
    )
    def test_what_two_parsers_could_read_differently_is_refused(self, raw: bytes) -> None:
        with pytest.raises(errors.Malformed):
            parse(with_raw(payload=raw))

    def test_a_repeated_header_member_is_refused(self) -> None:
        with pytest.raises(errors.Malformed):
            parse(with_raw(header=b'{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"k"}'))

    def test_a_whole_surrogate_pair_is_one_character(self) -> None:
        assert parse(with_raw(payload=b'{"sub":"\\ud83d\\ude00"}')).claims == {"sub": "\U0001f600"}
