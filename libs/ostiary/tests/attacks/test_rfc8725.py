"""RFC 8725, JWT Best Current Practices: a token of one type or issuer, substituted for another."""

import json
import time

import jwt
import pytest
from catalogue import Target, b64

from ostiary import Verifier, errors
from ostiary.testing import Issuer


class TestExplicitTyping:
    """Section 3.11, RFC 9068 section 4."""

    @pytest.mark.parametrize(
        "typ",
        [
            *("JWT", "jwt", "id_token", "logout+jwt", "secevent+jwt", "ostiary-feed+jwt", "dpop+jwt", "statuslist+jwt"),
            *("at+jwt ", " at+jwt", "at+jwt;charset=utf-8", "application/application/at+jwt", "x/at+jwt", "at+JWT\x00"),
            *("", None, 1, True, ["at+jwt"], {"at+jwt": 1}, Issuer.REMOVED),
        ],
    )
    def test_another_type_of_token_is_rejected(self, target: Target, issuer: Issuer, typ: object) -> None:
        assert target.refuses(issuer.token(header={"typ": typ})) == "wrong_type"

    def test_an_id_token_is_no_access_token(self, target: Target, issuer: Issuer) -> None:
        now = int(time.time())
        claims = {
            "iss": issuer.issuer,
            "sub": "u",
            "aud": "ostiary",
            "exp": now + 900,
            "iat": now,
            "nonce": "n",
            "at_hash": "x",
        }
        token = jwt.encode(claims, issuer.private_key, "RS256", {"kid": issuer.kid})
        assert target.refuses(token) == "wrong_type"
        token = jwt.encode(claims, issuer.private_key, "RS256", {"kid": issuer.kid, "typ": "at+jwt"})
        assert target.refuses(token) == "missing_claim"


class TestIssuerAndAudience:
    """Sections 3.8 and 3.9."""

    @pytest.mark.parametrize(
        "iss",
        [
            *(
                "https://issuer.example/",
                "https://issuer.exampl",
                "https://issuer.example.evil",
                "HTTPS://issuer.example",
            ),
            *(
                "http://issuer.example",
                "https://issuer.example\x00",
                " https://issuer.example",
                "https://evil/@issuer.example",
            ),
            *("", 1, True, ["https://issuer.example"], {"https://issuer.example": 1}),
        ],
    )
    def test_issuers_are_compared_exactly(self, target: Target, issuer: Issuer, iss: object) -> None:
        assert target.refuses(issuer.token(claims={"iss": iss})) == "wrong_issuer"

    @pytest.mark.parametrize(
        ("aud", "code"),
        [
            *[(aud, "wrong_audience") for aud in ("other", "Ostiary", "ostiary ", "ostiar", "", "ostiary,other", "*")],
            *[(aud, "wrong_audience") for aud in ([], ["other"], ["ostiary "])],
            *[
                (aud, "malformed")
                for aud in (1, True, {"ostiary": 1}, [["ostiary"]], ["ostiary", None], ["ostiary", 1])
            ],
            *[(aud, "missing_claim") for aud in (None, Issuer.REMOVED)],
        ],
    )
    def test_audiences_are_compared_exactly(self, target: Target, issuer: Issuer, aud: object, code: str) -> None:
        assert target.refuses(issuer.token(claims={"aud": aud})) == code

    def test_a_key_of_one_issuer_never_verifies_a_token_of_another(self) -> None:
        ours = Issuer("https://ours.example", kid="same")
        theirs = Issuer("https://theirs.example", kid="same")
        verifier = Verifier(ours.config(), theirs.config())
        assert verifier.verify(ours.token()).issuer == "https://ours.example"
        assert verifier.verify(theirs.token()).issuer == "https://theirs.example"
        for signer, named in ((ours, theirs), (theirs, ours)):
            with pytest.raises(errors.BadSignature):
                verifier.verify(signer.token(claims={"iss": named.issuer}))

    def test_an_audience_of_one_issuer_is_not_valid_for_another(self) -> None:
        ours, theirs = Issuer("https://ours.example", "a"), Issuer("https://theirs.example", "b")
        verifier = Verifier(ours.config(), theirs.config())
        for token in (ours.token(claims={"aud": "b"}), theirs.token(claims={"aud": "a"})):
            with pytest.raises(errors.WrongAudience):
                verifier.verify(token)


class TestNesting:
    """Section 2.4 and RFC 7519 section 5.2."""

    def test_a_nested_token_is_rejected(self, target: Target, issuer: Issuer) -> None:
        header = json.dumps({"alg": "RS256", "typ": "at+jwt", "cty": "JWT", "kid": issuer.kid}).encode()
        assert target.refuses(issuer.sign(header, issuer.token().encode())) == "malformed"


class TestSubstitution:
    """Section 2.7: parts of valid tokens combined."""

    def test_parts_of_two_tokens_make_none(self, target: Target, issuer: Issuer) -> None:
        one, two = issuer.token(subject="user").split("."), issuer.token(subject="admin").split(".")
        for mixed in ((one[0], two[1], one[2]), (one[0], one[1], two[2])):
            assert target.refuses(".".join(mixed)) == "bad_signature"

    def test_a_header_is_signed_too(self, target: Target, issuer: Issuer) -> None:
        _, payload, signature = issuer.token().split(".")
        header = b64(json.dumps({"kid": issuer.kid, "alg": "RS256", "typ": "at+jwt"}).encode())
        assert target.refuses(f"{header}.{payload}.{signature}") == "bad_signature"
