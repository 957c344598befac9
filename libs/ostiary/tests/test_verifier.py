"""RFC 9068 section 4 and RFC 8725: which access tokens are accepted."""

import jwt
import pytest

from ostiary import KeySet, LocalKeys, VerifiedToken, Verifier, VerifierConfig, errors
from ostiary.testing import Issuer

NO_TEXTS: list[object] = ["", 1, ["u"]]


def verify(issuer: Issuer, **claims: object) -> VerifiedToken:
    return issuer.verifier().verify(issuer.token(claims=claims))


def test_a_valid_token_yields_its_claims(issuer: Issuer) -> None:
    token = issuer.verifier().verify(issuer.token(subject="u1", scopes=["a", "b"], roles=["user"]))
    assert token.subject == "u1"
    assert token.scopes == {"a", "b"}
    assert token.roles == {"user"}
    assert token.issuer == issuer.issuer
    assert token.audience == {"ostiary"}
    assert token.session_id is not None
    assert token.client_id == "test-client"
    assert token.claims == {}


def test_further_claims_are_there_too(issuer: Issuer) -> None:
    token = issuer.verifier().verify(issuer.token(claims={"tenant": "t1"}))
    assert token.claims == {"tenant": "t1"}


def test_a_verified_token_is_immutable(issuer: Issuer) -> None:
    token = issuer.verifier().verify(issuer.token())
    with pytest.raises(AttributeError):
        token.subject = "admin"  # type: ignore[misc]  # what is tried here is not allowed
    with pytest.raises(TypeError):
        token.claims["sub"] = "admin"  # type: ignore[index]  # the same


class TestSignature:
    def test_without_keys_verification_raises(self, issuer: Issuer) -> None:
        config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, key_source=LocalKeys())
        verifier = Verifier(config)
        assert not verifier.ready
        with pytest.raises(errors.KeysUnavailable):
            verifier.verify(issuer.token())

    def test_a_token_signed_by_pyjwt_is_accepted(self, issuer: Issuer) -> None:
        claims = jwt.decode(issuer.token(), options={"verify_signature": False})
        token = jwt.encode(claims, issuer.private_key, "RS256", {"typ": "at+jwt", "kid": issuer.kid})
        assert issuer.verifier().verify(token).subject == claims["sub"]


class TestClaims:
    @pytest.mark.parametrize("name", ["iss", "aud", "sub", "client_id", "exp", "iat", "jti"])
    def test_a_required_claim_must_be_there(self, issuer: Issuer, name: str) -> None:
        for nothing in (Issuer.REMOVED, None):
            with pytest.raises(errors.MissingClaim):
                verify(issuer, **{name: nothing})

    @pytest.mark.parametrize("name", ["nbf", "sid", "auth_time", "scope", "roles"])
    def test_an_optional_claim_may_be_absent(self, issuer: Issuer, name: str) -> None:
        assert verify(issuer, **{name: Issuer.REMOVED}).subject == "user-1"

    def test_the_audience_may_name_others_too(self, issuer: Issuer) -> None:
        assert verify(issuer, aud=["other", "ostiary"]).audience == {"other", "ostiary"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[(name, value) for name in ("sub", "client_id", "jti", "sid") for value in NO_TEXTS],
            ("scope", ["a"]),
            ("roles", "admin"),
            ("roles", [1]),
        ],
    )
    def test_a_claim_of_the_wrong_type_is_malformed(self, issuer: Issuer, name: str, value: object) -> None:
        with pytest.raises(errors.Malformed):
            verify(issuer, **{name: value})


class TestPermissions:
    def test_all_scopes_are_needed(self, issuer: Issuer) -> None:
        token = issuer.verifier().verify(issuer.token(scopes=["a"]))
        token.require(scopes=["a"])
        with pytest.raises(errors.InsufficientScope) as caught:
            token.require(scopes=["a", "b"])
        assert caught.value.required == {"a", "b"}

    def test_all_roles_are_needed(self, issuer: Issuer) -> None:
        token = issuer.verifier().verify(issuer.token(roles=["user"]))
        token.require(roles=["user"])
        with pytest.raises(errors.InsufficientRole):
            token.require(roles=["admin"])

    @pytest.mark.parametrize("scope", ["", " ", "a\tb", "ab"])
    def test_no_scope_comes_out_of_odd_spacing(self, issuer: Issuer, scope: str) -> None:
        token = issuer.verifier().verify(issuer.token(claims={"scope": scope}))
        with pytest.raises(errors.InsufficientScope):
            token.require(scopes=["a"])


class TestConfig:
    @pytest.mark.parametrize("changes", [{"issuer": ""}, {"audience": ""}, {"leeway": -1}, {"leeway": 61}])
    def test_a_config_that_would_accept_anything_is_rejected(self, changes: dict[str, object]) -> None:
        values = {"issuer": "https://issuer.example", "audience": "ostiary", **changes}
        with pytest.raises(ValueError, match="must"):
            VerifierConfig(**values)  # type: ignore[arg-type]  # wrong values are the point

    def test_keys_come_from_one_place(self) -> None:
        with pytest.raises(ValueError, match="must not both"):
            VerifierConfig(
                issuer="https://issuer.example", audience="ostiary", jwks_url="https://x", key_source=LocalKeys()
            )

    def test_a_verifier_needs_an_issuer_and_each_once(self, issuer: Issuer) -> None:
        for configs in ([], [issuer.config(), issuer.config()]):
            with pytest.raises(ValueError, match="one configuration"):
                Verifier(*configs)


def test_errors_contain_nothing_from_the_token(issuer: Issuer) -> None:
    keys = KeySet.from_json(issuer.jwks())
    assert keys.keys
    with pytest.raises(errors.WrongIssuer) as caught:
        verify(issuer, iss="https://secret.example")
    assert "secret" not in str(caught.value)
