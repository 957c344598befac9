"""Client authentication with an assertion."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from typing import Any
from uuid import uuid4

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm
from oauth_harness import (
    CLIENT_CREDENTIALS,
    INTROSPECT,
    ISSUER,
    JWT_BEARER,
    REVOKE,
    TOKEN,
    OAuth,
    claims_of,
    ec_jwk,
    refused,
    rsa_jwk,
)

from ostiary_auth.domain.oauth.client_assertion import MAX_ASSERTION_CHARACTERS
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID

#: One application serves all tests here.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def claims_for(client_id: str, **changes: Any) -> dict[str, Any]:
    """Return the claims of a good assertion; a change to None leaves a claim out."""
    now = int(time.time())
    good = {"iss": client_id, "sub": client_id, "aud": ISSUER, "iat": now, "exp": now + 60, "jti": str(uuid4())}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def with_assertion(assertion: str, **form: str) -> dict[str, str]:
    return {**CLIENT_CREDENTIALS, "client_assertion": assertion, "client_assertion_type": JWT_BEARER, **form}


class TestPrivateKeyJwt:
    """RFC 7523 sections 2.2 and 3, RFC 8725, and RFC 7523bis on the audience."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def signer(self, oauth: OAuth, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> OAuth:
        oauth.signer = await oauth.register_keys("signer", rsa_jwk(rsa_key, kid="rsa"), ec_jwk(ec_key, kid="ec"))
        return oauth

    async def test_a_registered_key_authenticates(
        self, signer: OAuth, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        for assertion in (
            jwt.encode(claims_for(signer.signer), rsa_key, "RS256"),
            jwt.encode(claims_for(signer.signer), rsa_key, "PS256", headers={"kid": "rsa"}),
            jwt.encode(claims_for(signer.signer), ec_key, "ES256", headers={"kid": "ec"}),
            jwt.encode(claims_for(signer.signer, aud=f"{ISSUER}{TOKEN}"), ec_key, "ES256"),
            jwt.encode(claims_for(signer.signer, iat=None, exp=time.time() + 299), ec_key, "ES256"),
        ):
            response = await signer.post(TOKEN, with_assertion(assertion))
            assert response.status_code == 200
            assert claims_of(response.json()["access_token"])["sub"] == signer.signer

    async def test_a_key_authenticates_at_every_endpoint(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        form = with_assertion(
            jwt.encode(claims_for(signer.signer), ec_key, "ES256"), client_id=signer.signer, token="x"
        )
        assert (await signer.post(REVOKE, form)).status_code == 200
        form = with_assertion(jwt.encode(claims_for(signer.signer), ec_key, "ES256"), token="x")
        refused(await signer.post(INTROSPECT, form), "unauthorized_client")

    async def test_an_assertion_is_used_once(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        claims = claims_for(signer.signer)
        form = with_assertion(jwt.encode(claims, ec_key, "ES256"))
        answers = await asyncio.gather(*(signer.post(TOKEN, form) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200, *[401] * 9]
        later = {**claims, "exp": claims["exp"] + 1}
        for again in (claims, later):
            refused(await signer.post(TOKEN, with_assertion(jwt.encode(again, ec_key, "ES256"))), "invalid_client")
        refused(await signer.post(REVOKE, {**form, "token": "x"}), "invalid_client")

    async def test_two_clients_may_use_the_same_jti(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        other = await signer.register_keys("other", ec_jwk(ec_key))
        for client_id in (signer.signer, other):
            assertion = jwt.encode(claims_for(client_id, jti="same"), ec_key, "ES256")
            assert (await signer.post(TOKEN, with_assertion(assertion))).status_code == 200

    async def test_an_assertion_that_does_not_keep_the_rules_is_refused(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        now = time.time()
        broken: list[dict[str, Any]] = [
            {"exp": now - 1},
            {"exp": now + 400},
            {"exp": None},
            {"nbf": now + 60},
            {"iat": now + 60},
            {"aud": [ISSUER]},
            {"aud": [ISSUER, "https://other.example"]},
            {"aud": "https://other.example"},
            {"aud": f"{ISSUER}/"},
            {"aud": f"{ISSUER}{INTROSPECT}"},
            {"aud": {}},
            {"aud": None},
            {"iss": signer.worker[0]},
            {"iss": None},
            {"sub": signer.worker[0]},
            {"sub": FIRST_PARTY_CLIENT_ID},
            {"sub": "nobody"},
            {"sub": None},
            {"sub": 7},
            {"jti": None},
            {"jti": 7},
            {"jti": ""},
            {"exp": True},
            {"iat": True},
            {"nbf": False},
            {"iat": str(int(now))},
            {"iat": -1},
            {"nbf": 10**30},
            {"jti": []},
        ]
        for changes in broken:
            assertion = jwt.encode(claims_for(signer.signer, **changes), ec_key, "ES256")
            refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"exp": str(int(time.time()) + 60)}, id="an expiry in a string"),
            pytest.param({"exp": 10**30}, id="an expiry that no date can be"),
            pytest.param({"exp": float("inf")}, id="an endless expiry"),
            pytest.param({"exp": {}}, id="an expiry that is an object"),
            pytest.param({"jti": "\ud800"}, id="half a surrogate pair"),
        ],
    )
    async def test_a_claim_of_the_wrong_kind_is_refused(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey, changes: dict[str, Any]
    ) -> None:
        assertion = jwt.encode(claims_for(signer.signer, **changes), ec_key, "ES256")
        refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")

    @pytest.mark.parametrize("claim", ["iat", "nbf"])
    @pytest.mark.parametrize(("ahead", "status"), [(2, 200), (10, 200), (12, 200), (61, 401)])
    async def test_the_clock_of_a_client_may_be_ahead_a_little(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey, claim: str, ahead: int, status: int
    ) -> None:
        """FAPI 2.0 Security Profile section 5.3.2.1: 10 s are accepted, more than 60 s are not."""
        now = time.time()
        claims = claims_for(signer.signer, **{claim: now + ahead, "exp": now + ahead + 60})
        assertion = jwt.encode(claims, ec_key, "ES256")
        assert (await signer.post(TOKEN, with_assertion(assertion))).status_code == status

    async def test_an_assertion_is_read_strictly(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        claims = json.dumps(claims_for(signer.signer), separators=(",", ":"))
        once_more = f'{claims[:-1]},"iss":"{signer.signer}"}}'
        endless = re.sub(r'"exp":\d+', '"exp":1e400', claims)
        for header, payload, end, status in (
            ('{"alg":"ES256","alg":"ES256"}', claims, "", 401),
            ('{"alg":"ES256","crit":["exp"],"exp":1}', claims, "", 401),
            ('{"alg":"ES256"}', once_more, "", 401),
            ('{"alg":"ES256"}', endless, "", 401),
            ('{"alg":"ES256"}', re.sub(r'"iat":\d+', '"iat":NaN', claims), "", 401),
            ('{"alg":"ES256"}', claims, "==", 401),
            ('{"alg":"ES256"}', claims, "", 200),
        ):
            content = b".".join(encoded(part.encode()) for part in (header, payload))
            signature = encoded(ECAlgorithm(ECAlgorithm.SHA256).sign(content, ec_key))
            form = with_assertion((content + b"." + signature).decode() + end)
            assert (await signer.post(TOKEN, form)).status_code == status

    async def test_an_assertion_is_signed_by_a_key_of_the_client(
        self, signer: OAuth, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        anothers = ec.generate_private_key(ec.SECP256R1())
        other = await signer.register_keys("other", ec_jwk(anothers, kid="ec"))
        good = jwt.encode(claims_for(signer.signer), ec_key, "ES256")
        head, body, signature = good.split(".")
        for assertion in (
            jwt.encode(claims_for(signer.signer), anothers, "ES256", headers={"kid": "ec"}),
            jwt.encode(claims_for(other), ec_key, "ES256"),
            jwt.encode(claims_for(signer.worker[0]), ec_key, "ES256"),
            jwt.encode(claims_for(FIRST_PARTY_CLIENT_ID), ec_key, "ES256"),
            jwt.encode(claims_for(signer.signer), ec_key, "ES256", headers={"kid": "rsa"}),
            jwt.encode(claims_for(signer.signer), anothers, "ES256", headers={"jwk": ec_jwk(anothers)}),
            jwt.encode(claims_for(signer.signer), rsa_key, "RS384"),
            jwt.encode(claims_for(signer.signer), rsa_key, "PS512"),
            jwt.encode(claims_for(signer.signer), "", "none"),
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-6]}AAAAAA",
        ):
            refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")
        assert (await signer.post(TOKEN, with_assertion(good))).status_code == 200

    async def test_a_public_key_is_no_shared_secret(self, signer: OAuth, rsa_key: rsa.RSAPrivateKey) -> None:
        """RFC 8725 section 2.1."""
        public = rsa_key.public_key()
        for secret in (
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            json.dumps(rsa_jwk(rsa_key, kid="rsa")).encode(),
        ):
            parts = ({"alg": "HS256", "typ": "JWT"}, claims_for(signer.signer))
            content = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
            mac = base64.urlsafe_b64encode(hmac.digest(secret, content, hashlib.sha256)).rstrip(b"=")
            refused(await signer.post(TOKEN, with_assertion((content + b"." + mac).decode())), "invalid_client")

    async def test_an_assertion_is_about_the_client_that_is_named(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        for client_id in (signer.worker[0], FIRST_PARTY_CLIENT_ID, "nobody"):
            form = with_assertion(jwt.encode(claims_for(signer.signer), ec_key, "ES256"), client_id=client_id)
            refused(await signer.post(TOKEN, form), "invalid_client")

    async def test_an_assertion_comes_with_its_type_and_nothing_else(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        assertion = jwt.encode(claims_for(signer.signer), ec_key, "ES256")
        good = with_assertion(assertion)
        refused(await signer.post(TOKEN, {**good, "client_secret": "x"}), "invalid_request")
        refused(await signer.post(TOKEN, good, signer.worker), "invalid_request")
        refused(await signer.post(TOKEN, {**good, "client_assertion_type": ""}), "invalid_request")
        refused(await signer.post(TOKEN, {**good, "client_assertion": ""}), "invalid_request")
        saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"
        refused(await signer.post(TOKEN, {**good, "client_assertion_type": saml}), "invalid_request")
        assert (await signer.post(TOKEN, good)).status_code == 200

    async def test_a_secret_does_not_authenticate_a_client_with_keys(self, signer: OAuth) -> None:
        refused(await signer.post(TOKEN, CLIENT_CREDENTIALS, (signer.signer, "x")), "invalid_client")
        refused(await signer.post(TOKEN, {**CLIENT_CREDENTIALS, "client_id": signer.signer}), "invalid_client")

    async def test_an_assertion_has_a_length(self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey) -> None:
        long = jwt.encode(claims_for(signer.signer, pad="x" * 5500), ec_key, "ES256")
        assert 7000 < len(long) <= MAX_ASSERTION_CHARACTERS
        assert (await signer.post(TOKEN, with_assertion(long))).status_code == 200
        longer = jwt.encode(claims_for(signer.signer, pad="x" * 6500), ec_key, "ES256")
        assert len(longer) > MAX_ASSERTION_CHARACTERS
        refused(await signer.post(TOKEN, with_assertion(longer)), "invalid_client")

    @pytest.mark.parametrize(
        ("length", "status"), [(MAX_ASSERTION_CHARACTERS, 200), (MAX_ASSERTION_CHARACTERS + 1, 401)]
    )
    async def test_an_assertion_may_have_exactly_its_maximum_length(
        self, signer: OAuth, ec_key: ec.EllipticCurvePrivateKey, length: int, status: int
    ) -> None:
        # Base64url has no length of one more than a multiple of four, so a header makes up the difference.
        assertion = next(
            made
            for extra in range(4)
            for pad in range(5700, 6000)
            if len(made := self.padded(signer.signer, ec_key, pad, extra)) == length
        )
        assert (await signer.post(TOKEN, with_assertion(assertion))).status_code == status

    def padded(self, client_id: str, key: ec.EllipticCurvePrivateKey, pad: int, extra: int) -> str:
        return jwt.encode(claims_for(client_id, pad="x" * pad), key, "ES256", headers={"x": "x" * extra})

    async def test_what_is_no_jwt_is_refused(self, signer: OAuth) -> None:
        deep = base64.urlsafe_b64encode(b'{"sub":' + b"[" * 3000).decode()
        header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":7}').decode()
        for assertion in (
            "x",
            "..",
            "x.y.z",
            "\u00e9.\u00e9.\u00e9",
            "e30.e30.",
            f"e30.{deep}.x",
            f"{header}.e30.x",
            "1.1.1",
        ):
            refused(await signer.post(TOKEN, with_assertion(assertion)), "invalid_client")
