"""Settings that a client may be registered with."""

import hashlib
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from oauth_harness import NOW, OAuth, ec_jwk, rsa_jwk, settings_of

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClientSettings
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Client
from ostiary_auth.services import Services

#: One application serves all tests here.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestRegistration:
    """What a client can be: RFC 9700 section 4.15, RFC 7517 section 9.3."""

    async def refused(self, services: Services, client: Client) -> None:
        with pytest.raises(InvalidClientSettings):
            await services.clients.create(client, Context(NOW))

    async def test_a_client_cannot_pass_for_a_user_or_for_the_login(self, shared_services: Services) -> None:
        user_id = UUID("abcdef01-2345-6789-abcd-ef0123456789")
        for client_id in (
            str(user_id),
            user_id.hex,
            str(user_id).upper(),
            f"urn:uuid:{user_id}",
            FIRST_PARTY_CLIENT_ID,
            "First-Party",
            "",
            "x",
            "1worker",
            "-worker",
            "worker\n",
            "wor ker",
            "wor:ker",
            "w\u043erker",
            "w" * 65,
        ):
            await self.refused(shared_services, settings_of(client_id))

    async def test_a_key_is_public_and_strong(
        self, shared_services: Services, ec_key: ec.EllipticCurvePrivateKey
    ) -> None:
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        p384 = ec.generate_private_key(ec.SECP384R1())
        good = ec_jwk(ec_key)
        refused: list[Any] = [
            [rsa_jwk(weak)],
            [ec_jwk(p384)],
            [ECAlgorithm.to_jwk(ec_key, as_dict=True)],
            [RSAAlgorithm.to_jwk(weak, as_dict=True)],
            [{"kty": "oct", "k": "c2VjcmV0"}],
            [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}],
            [{**good, "x": "AAAA"}],
            [{"kty": "EC"}],
            [{}],
            ["x"],
            [],
            [good] * 6,
            good,
        ]
        for keys in refused:
            await self.refused(shared_services, settings_of("signer", jwks={"keys": keys}))
        await self.refused(shared_services, settings_of("signer", jwks={}))

    async def test_a_client_has_grants_scopes_and_audiences_that_can_be(self, shared_services: Services) -> None:
        for settings in (
            {"grants": ()},
            {"grants": ("password",)},
            {"grants": ("client_credentials", "implicit")},
            {"audiences": ()},
            {"audiences": ("",)},
            {"audiences": ("a b",)},
            {"scopes": ("a b",)},
            {"scopes": ("",)},
            {"scopes": ('a"b',)},
            {"scopes": ("a\\b",)},
            {"scopes": ("\u00e9",)},
        ):
            await self.refused(shared_services, settings_of("worker", **settings))

    async def test_a_secret_is_stored_as_a_hash_and_told_once(self, oauth: OAuth) -> None:
        _, secret = oauth.worker
        stored = await oauth.services.clients.get(oauth.worker[0])
        assert len(secret) >= 43
        assert secret not in repr(stored)
        assert stored.secret_hash == hashlib.sha256(secret.encode()).digest()
