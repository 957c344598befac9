"""`/.well-known/oauth-authorization-server`."""

import pytest
from oauth_harness import ISSUER, TOKEN, OAuth, refused

#: One application serves all tests here.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestMetadata:
    """RFC 8414."""

    async def test_every_endpoint_that_is_named_answers(self, oauth: OAuth) -> None:
        metadata = (await oauth.http.get("/.well-known/oauth-authorization-server")).json()
        assert metadata["issuer"] == ISSUER
        named = {name: url for name, url in metadata.items() if name.endswith(("_endpoint", "_uri"))}
        assert named.keys() == {"token_endpoint", "revocation_endpoint", "introspection_endpoint", "jwks_uri"}
        assert (await oauth.http.get(named.pop("jwks_uri").removeprefix(ISSUER))).json()["keys"]
        for url in named.values():
            refused(await oauth.post(url.removeprefix(ISSUER), {"token": "x"}), "invalid_client")

    async def test_every_grant_that_is_named_is_supported(self, oauth: OAuth) -> None:
        metadata = (await oauth.http.get("/.well-known/oauth-authorization-server")).json()
        for grant in metadata["grant_types_supported"]:
            response = await oauth.post(TOKEN, {"grant_type": grant}, oauth.worker)
            assert response.json().get("error") != "unsupported_grant_type"
