"""The OAuth endpoints, by the sections of the standards they follow."""

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from oauth_harness import (
    CLIENT_CREDENTIALS,
    FIRST_PARTY,
    INTROSPECT,
    ISSUER,
    REVOKE,
    TOKEN,
    Basic,
    OAuth,
    claims_of,
    refused,
)

from ostiary import KeySet, LocalKeys, Verifier, VerifierConfig
from ostiary.feed import Kind
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.domain.sessions.refresh_tokens import REPLAY_GRACE

#: One application serves all tests here.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestTokenEndpoint:
    """RFC 6749 section 3.2."""

    async def test_a_parameter_stands_once(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        body = urlencode({**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret})
        assert (await oauth.raw(body)).status_code == 200
        for again in (*body.split("&"), "scope=&scope=", "scope=a&scope=a", "grant%5Ftype=x"):
            refused(await oauth.raw(f"{body}&{again}"), "invalid_request")

    async def test_a_parameter_without_a_value_counts_as_not_sent(self, oauth: OAuth) -> None:
        form = {**CLIENT_CREDENTIALS, "scope": "", "audience": "", "client_secret": "", "client_assertion": ""}
        response = await oauth.post(TOKEN, form, oauth.worker)
        assert response.json()["scope"] == "jobs:read jobs:write"
        refused(await oauth.post(TOKEN, {"grant_type": ""}, oauth.worker), "invalid_request")
        refused(
            await oauth.post(TOKEN, {**FIRST_PARTY, "grant_type": "refresh_token", "refresh_token": ""}),
            "invalid_request",
        )

    async def test_unknown_parameters_are_ignored(self, oauth: OAuth) -> None:
        form = {**CLIENT_CREDENTIALS, "resource": "x", "sub": "root", "aud": "x", "client_name": "x", "roles": "admin"}
        token = await oauth.access(oauth.worker, **form)
        claims = claims_of(token)
        assert (claims["sub"], claims["aud"], claims["roles"]) == (oauth.worker[0], "ostiary", [])

    async def test_only_a_form_is_read(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        fields = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret}
        form = urlencode(fields)
        for media_type in ("application/json", "text/plain", "multipart/form-data; boundary=x", "", "form"):
            refused(await oauth.raw(form, {"Content-Type": media_type} if media_type else {}), "invalid_request")
        refused(await oauth.raw(json.dumps(fields), {"Content-Type": "application/json"}), "invalid_request")
        for media_type in ("application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-URLencoded"):
            assert (await oauth.raw(form, {"Content-Type": media_type})).status_code == 200

    async def test_what_is_no_form_is_refused(self, oauth: OAuth) -> None:
        bodies = [b"scope=\xc3\xa9", b"scope=%ff", b"scope=%00", b"client_id=worker%00&client_secret=x"]
        for body in (*bodies, b"scope=%ed%a0%80"):
            refused(await oauth.raw(body), "invalid_request")
        for body in (b"", b"&", b"=&=", b"{}"):
            refused(await oauth.raw(body), "invalid_client")
        latin = "application/x-www-form-urlencoded; charset=ISO-8859-1"
        refused(await oauth.raw("grant_type=client_credentials", {"Content-Type": latin}), "invalid_request")

    async def test_parameters_without_a_name_or_a_value_count_for_nothing(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        form = f"&&grant_type=client_credentials&&scope&client_id={client_id}&=&client_secret={secret}&"
        assert (await oauth.raw(form)).status_code == 200

    async def test_only_known_parameters_must_not_be_repeated(self, oauth: OAuth) -> None:
        """RFC 6749 section 3.2, and RFC 8707 section 2 for one that may be repeated."""
        client_id, secret = oauth.worker
        form = f"grant_type=client_credentials&client_id={client_id}&client_secret={secret}"
        assert (await oauth.raw(f"{form}&resource=a&resource=b&x=&x=")).status_code == 200
        for known in ("scope=a&scope=a", "grant_type=client_credentials", "client_id=", "token=a&token=b"):
            refused(await oauth.raw(f"{form}&{known}"), "invalid_request")

    async def test_the_number_of_parameters_has_a_bound(self, oauth: OAuth) -> None:
        some = {f"p{number}": "x" for number in range(31)}
        assert (await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **some}, oauth.worker)).status_code == 200
        refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **some, "p": "x"}, oauth.worker), "invalid_request")
        refused(await oauth.raw("&".join(f"p{number}=x" for number in range(5000))), "invalid_request")

    async def test_characters_beyond_ascii_may_be_sent_encoded(self, oauth: OAuth) -> None:
        form = {**CLIENT_CREDENTIALS, "scope": "jobs:\u00e9", "x": "\U0001f98a"}
        refused(await oauth.post(TOKEN, form, oauth.worker), "invalid_scope")

    async def test_only_post_is_answered(self, oauth: OAuth) -> None:
        for path in (TOKEN, REVOKE, INTROSPECT):
            for method in ("GET", "PUT", "DELETE"):
                response = await oauth.http.request(method, path, params=CLIENT_CREDENTIALS)
                assert response.status_code == 405
                assert "POST" in response.headers["Allow"]

    async def test_other_grants_are_not_supported(self, oauth: OAuth) -> None:
        """RFC 9700 section 2.4: the password grant must not be used."""
        user = {"username": "ada@example.com", "password": "correct horse battery staple"}
        grants = ["password", "authorization_code", "implicit", "CLIENT_CREDENTIALS", "client_credentials ", "x" * 5000]
        for grant in (*grants, "urn:ietf:params:oauth:grant-type:jwt-bearer", "\u00e9"):
            refused(await oauth.post(TOKEN, {"grant_type": grant, **user}, oauth.worker), "unsupported_grant_type")
            refused(await oauth.post(TOKEN, {"grant_type": grant, **user, **FIRST_PARTY}), "unsupported_grant_type")
        refused(await oauth.post(TOKEN, {}, oauth.worker), "invalid_request")


class TestClientCredentials:
    """RFC 6749 sections 4.4 and 5, RFC 8707, RFC 9068."""

    async def test_the_answer_is_as_section_5_1_has_it(self, oauth: OAuth) -> None:
        response = await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker)
        body = response.json()
        # No refresh token (section 4.4.3).
        assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
        assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 900, "jobs:read jobs:write")
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "application/json"

    async def test_a_token_has_the_claims_of_the_profile(self, oauth: OAuth) -> None:
        before = int(time.time())
        token = await oauth.access(oauth.worker)
        header, claims = jwt.get_unverified_header(token), claims_of(token)
        assert (header["alg"], header["typ"]) == ("RS256", "at+jwt")
        assert claims.keys() == {
            *("iss", "aud", "sub", "client_id", "exp", "iat", "nbf"),
            *("jti", "scope", "roles", "rev"),
        }
        assert claims["iss"] == ISSUER
        assert claims["aud"] == "ostiary"
        assert claims["sub"] == claims["client_id"] == oauth.worker[0]
        assert claims["scope"] == "jobs:read jobs:write"
        async with oauth.services.store.read() as transaction:
            assert claims["rev"] == (await transaction.revocations.head()).number
        assert before <= claims["iat"] == claims["nbf"] <= time.time()
        assert claims["exp"] == claims["iat"] + 900
        assert claims["jti"] != claims_of(await oauth.access(oauth.worker))["jti"]

    async def test_a_token_is_verified_with_the_published_keys_alone(self, oauth: OAuth) -> None:
        keys = KeySet.from_json((await oauth.http.get("/.well-known/jwks.json")).content)
        config = VerifierConfig(issuer=ISSUER, audience="ostiary", key_source=LocalKeys(keys))
        token = Verifier(config).verify(await oauth.access(oauth.worker, scope="jobs:read"))
        assert (token.subject, token.client_id, token.session_id) == (oauth.worker[0], oauth.worker[0], None)
        assert token.scopes == {"jobs:read"}

    async def test_a_clients_token_is_not_a_users(self, oauth: OAuth) -> None:
        headers = {"Authorization": f"Bearer {await oauth.access(oauth.worker)}"}
        for method, path in (
            ("GET", "/auth/sessions"),
            ("POST", "/auth/logout"),
            ("DELETE", f"/auth/sessions/{uuid4()}"),
        ):
            response = await oauth.http.request(method, path, headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "not_a_user")

    async def test_a_client_asks_for_some_of_its_scopes_or_gets_all(self, oauth: OAuth) -> None:
        for asked, granted in (
            ("jobs:read", "jobs:read"),
            ("jobs:write jobs:read", "jobs:read jobs:write"),
            ("jobs:read jobs:read", "jobs:read"),
            ("", "jobs:read jobs:write"),
        ):
            response = await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "scope": asked}, oauth.worker)
            assert response.json()["scope"] == claims_of(response.json()["access_token"])["scope"] == granted

    async def test_a_scope_that_a_client_may_not_have_is_refused(self, oauth: OAuth) -> None:
        for scope in ("admin", "jobs:read admin", "jobs", "JOBS:READ", "jobs:read,jobs:write", "introspect", "*", " "):
            refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "scope": scope}, oauth.worker), "invalid_scope")

    async def test_a_client_without_scopes_gets_a_token_without_scopes(self, oauth: OAuth) -> None:
        basic = await oauth.register("plain", scopes=())
        assert claims_of(await oauth.access(basic))["scope"] == ""

    async def test_a_token_is_meant_for_one_of_the_clients_audiences(self, oauth: OAuth) -> None:
        for audience in ("ostiary", "billing"):
            assert claims_of(await oauth.access(oauth.worker, audience=audience))["aud"] == audience
        for audience in ("other", "ostiary billing", "OSTIARY", ISSUER):
            form = {**CLIENT_CREDENTIALS, "audience": audience}
            refused(await oauth.post(TOKEN, form, oauth.worker), "invalid_target")

    async def test_a_client_uses_the_grants_that_it_has(self, oauth: OAuth) -> None:
        refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **FIRST_PARTY}), "unauthorized_client")
        refreshes = await oauth.register("app", grants=("refresh_token",))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, refreshes), "unauthorized_client")
        refused(await oauth.refresh("x", oauth.worker), "unauthorized_client")


class TestRefreshToken:
    """RFC 6749 section 6."""

    async def test_the_public_client_continues_its_sessions(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        response = await oauth.refresh(grant.refresh_token)
        body = response.json()
        assert response.headers["Cache-Control"] == "no-store"
        assert body.keys() == {*("access_token", "token_type", "expires_in", "scope", "refresh_token", "session_id")}
        assert body["session_id"] == claims_of(body["access_token"])["sid"] == str(grant.session.id)
        assert body["refresh_token"] != grant.refresh_token
        assert body["scope"] == "profile:read profile:write"

    async def test_a_token_may_be_asked_to_do_less(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        body = (await oauth.refresh(grant.refresh_token, scope="profile:read")).json()
        assert body["scope"] == claims_of(body["access_token"])["scope"] == "profile:read"
        # The refresh token itself goes on with all that was granted at the login.
        again = (await oauth.refresh(body["refresh_token"])).json()
        assert again["scope"] == "profile:read profile:write"

    async def test_asking_for_more_is_refused_and_uses_nothing_up(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        for scope in ("admin", "profile:read admin", "profile:read:any"):
            refused(await oauth.refresh(grant.refresh_token, scope=scope), "invalid_scope")
        first = await oauth.refresh(grant.refresh_token)
        assert first.status_code == 200
        assert (await oauth.refresh(first.json()["refresh_token"])).status_code == 200

    async def test_a_token_is_good_for_its_own_client_alone(self, oauth: OAuth) -> None:
        app = await oauth.register("app", grants=("refresh_token",))
        other = await oauth.register("other", grants=("refresh_token",))
        persons, _ = await oauth.log_in()
        apps, _ = await oauth.log_in(app[0])
        refused(await oauth.refresh(persons.refresh_token, app), "invalid_grant")
        refused(await oauth.refresh(apps.refresh_token), "invalid_grant")
        refused(await oauth.refresh(apps.refresh_token, other), "invalid_grant")
        response = await oauth.http.post("/auth/refresh", json={"refresh_token": apps.refresh_token})
        assert (response.status_code, response.json()["code"]) == (401, "invalid_refresh_token")
        # Nothing was used up by those who tried.
        assert (await oauth.refresh(persons.refresh_token)).status_code == 200
        body = (await oauth.refresh(apps.refresh_token, app)).json()
        assert claims_of(body["access_token"])["client_id"] == app[0]

    async def test_what_is_no_refresh_token_is_refused(self, oauth: OAuth) -> None:
        grant, access = await oauth.log_in()
        for token in ("x", access, grant.refresh_token[:-1], grant.refresh_token + "x", "\u00e9", "x" * 5000):
            refused(await oauth.refresh(token), "invalid_grant")

    async def test_a_replayed_token_ends_its_session(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        earlier = Context(datetime.now(UTC) - 2 * REPLAY_GRACE)
        following = await oauth.services.sessions.refresh(grant.refresh_token, FIRST_PARTY_CLIENT_ID, earlier)
        third = (await oauth.refresh(following.refresh_token)).json()["refresh_token"]
        refused(await oauth.refresh(grant.refresh_token), "invalid_grant")
        refused(await oauth.refresh(third), "invalid_grant")

    async def test_a_disabled_users_session_does_not_go_on(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        await oauth.services.accounts.disable(grant.user.id, Context(datetime.now(UTC)))
        refused(await oauth.refresh(grant.refresh_token), "invalid_grant")


class TestRevocation:
    """RFC 7009."""

    async def revoke(self, oauth: OAuth, token: str, basic: Basic | None = None, **form: str) -> None:
        fields = {"token": token, **form}
        response = await oauth.post(REVOKE, fields if basic else {**FIRST_PARTY, **fields}, basic)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"

    async def test_revoking_a_refresh_token_ends_its_session(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, access = await oauth.log_in()
        assert await oauth.is_active(inspector, access)
        for _ in range(2):
            await self.revoke(oauth, grant.refresh_token)
            refused(await oauth.refresh(grant.refresh_token), "invalid_grant")
            assert not await oauth.is_active(inspector, access)

    async def test_a_used_refresh_token_ends_its_session_as_well(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        following = (await oauth.refresh(grant.refresh_token)).json()["refresh_token"]
        await self.revoke(oauth, grant.refresh_token)
        refused(await oauth.refresh(following), "invalid_grant")

    async def test_revoking_an_access_token_ends_it_alone(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        one, other = await oauth.access(oauth.worker), await oauth.access(oauth.worker)
        for _ in range(2):
            await self.revoke(oauth, one, oauth.worker)
            assert not await oauth.is_active(inspector, one)
            assert await oauth.is_active(inspector, other)

    async def test_revoking_a_users_access_token_leaves_their_session(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, access = await oauth.log_in()
        await self.revoke(oauth, access)
        assert not await oauth.is_active(inspector, access)
        body = (await oauth.refresh(grant.refresh_token)).json()
        assert await oauth.is_active(inspector, body["access_token"])

    @pytest.mark.parametrize(("age", "is_revoked"), [(-12, True), (-2, True), (903, True), (955, True), (965, False)])
    async def test_a_token_that_any_verifier_may_accept_is_revoked(
        self, oauth: OAuth, age: int, is_revoked: bool
    ) -> None:
        client = await oauth.services.clients.get(oauth.worker[0])
        issued_at = datetime.now(UTC) - timedelta(seconds=age)
        token = (await oauth.services.tokens.for_client(client, "ostiary", (), issued_at)).token
        await self.revoke(oauth, token, oauth.worker)
        async with oauth.services.store.read() as transaction:
            found = await transaction.revocations.of({Kind.TOKEN: claims_of(token)["jti"]})
        assert bool(found) is is_revoked

    async def test_a_hint_is_only_a_hint(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        for hint in ("access_token", "refresh_token", "saml", "\u00e9"):
            grant, access = await oauth.log_in()
            await self.revoke(oauth, grant.refresh_token, token_type_hint=hint)
            refused(await oauth.refresh(grant.refresh_token), "invalid_grant")
            other = await oauth.access(oauth.worker)
            await self.revoke(oauth, other, oauth.worker, token_type_hint=hint)
            assert not await oauth.is_active(inspector, access)
            assert not await oauth.is_active(inspector, other)

    async def test_a_token_that_is_nobodys_is_no_error(self, oauth: OAuth) -> None:
        for token in ("x", "x.y.z", "\u00e9", "x" * 5000, ISSUER):
            await self.revoke(oauth, token)
            await self.revoke(oauth, token, oauth.worker)

    async def test_another_clients_tokens_are_left_alone(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, persons = await oauth.log_in()
        workers = await oauth.access(oauth.worker)
        for token in (grant.refresh_token, persons, workers):
            await self.revoke(oauth, token, inspector)
        await self.revoke(oauth, persons, oauth.worker)
        await self.revoke(oauth, workers)
        assert await oauth.is_active(inspector, persons)
        assert await oauth.is_active(inspector, workers)
        assert (await oauth.refresh(grant.refresh_token)).status_code == 200

    async def test_who_revokes_must_be_recognised_and_name_a_token(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        token = await oauth.access(oauth.worker)
        refused(await oauth.post(REVOKE, {"token": token, "client_id": oauth.worker[0]}), "invalid_client")
        refused(await oauth.post(REVOKE, {"token": token}, (oauth.worker[0], "x")), "invalid_client")
        refused(await oauth.post(REVOKE, {"token": token}), "invalid_client")
        refused(await oauth.post(REVOKE, {}, oauth.worker), "invalid_request")
        assert await oauth.is_active(inspector, token)


class TestIntrospection:
    """RFC 7662."""

    async def test_only_clients_that_may_ask_are_answered(self, oauth: OAuth) -> None:
        token = await oauth.access(oauth.worker)
        refused(await oauth.post(INTROSPECT, {"token": token}, oauth.worker), "unauthorized_client")
        refused(await oauth.post(INTROSPECT, {"token": token, **FIRST_PARTY}), "unauthorized_client")
        refused(await oauth.post(INTROSPECT, {"token": token}), "invalid_client")
        refused(await oauth.post(INTROSPECT, {"token": token}, (oauth.worker[0], "x")), "invalid_client")
        refused(await oauth.post(INTROSPECT, {}, await oauth.inspector()), "invalid_request")

    async def test_a_token_cannot_stand_for_the_client(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        headers = {"Authorization": f"Bearer {await oauth.access(inspector)}"}
        refused(await oauth.http.post(INTROSPECT, data={"token": "x"}, headers=headers), "invalid_client")

    async def test_of_a_good_token_the_claims_are_told(self, oauth: OAuth) -> None:
        grant, access = await oauth.log_in()
        response = await oauth.post(INTROSPECT, {"token": access}, await oauth.inspector())
        assert response.json() == {"active": True, "token_type": "Bearer", **claims_of(access)}
        assert response.json()["sub"] == str(grant.user.id)
        assert response.headers["Cache-Control"] == "no-store"

    async def test_a_token_for_another_audience_is_active(self, oauth: OAuth) -> None:
        token = await oauth.access(oauth.worker, audience="billing")
        response = await oauth.post(INTROSPECT, {"token": token}, await oauth.inspector())
        assert (response.json()["active"], response.json()["aud"]) == (True, "billing")

    async def test_what_is_no_access_token_of_ours_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        grant, access = await oauth.log_in()
        head, body, signature = access.split(".")
        key = oauth.services.local_keys.ring().signing
        headers = {"typ": "at+jwt", "kid": key.kid}
        ours = claims_of(access)

        def signed(claims: Mapping[str, Any], **changes: Any) -> str:
            return jwt.encode(dict(claims), key.private_key, "RS256", headers={**headers, **changes})

        stranger = ec.generate_private_key(ec.SECP256R1())
        assert await oauth.is_active(inspector, signed(ours))
        for token in (
            grant.refresh_token,
            signed({**ours, "iss": "https://other.example"}),
            signed({name: value for name, value in ours.items() if name != "iss"}),
            signed(ours, typ="JWT"),
            signed(ours, kid="unknown"),
            jwt.encode(ours, stranger, "ES256", headers=headers),
            jwt.encode(ours, "", "none", headers=headers),
            f"{head}.{body}.",
            f"{head}.{body}",
            f"{head}.{body}.{signature[:-6]}AAAAAA",
            f"{access}.x",
            "x",
            "..",
            "\u00e9.\u00e9.\u00e9",
            "x" * 5000,
            base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.",
            f"{access}==",
            f" {access}",
            signed({**ours, "exp": True}),
            signed({**ours, "iat": str(ours["iat"])}),
            signed({**ours, "jti": ""}),
        ):
            assert not await oauth.is_active(inspector, token)

    async def test_a_token_with_a_repeated_claim_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        _, access = await oauth.log_in()
        head, body, _ = (base64.urlsafe_b64decode(part + "==") for part in access.split("."))
        key = oauth.services.local_keys.ring().signing
        for claims, active in ((body, True), (body[:-1] + b',"iss":"' + ISSUER.encode() + b'"}', False)):
            signing_input = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, claims))
            signature = key.private_key.sign(signing_input, PKCS1v15(), SHA256())
            token = (signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()
            assert await oauth.is_active(inspector, token) is active

    async def test_an_expired_token_is_inactive_when_verifiers_refuse_it(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        client = await oauth.services.clients.get(oauth.worker[0])
        for age, active in (
            (timedelta(seconds=890), True),
            (timedelta(seconds=902), True),
            (timedelta(seconds=906), False),
            (timedelta(seconds=-3), True),
            (timedelta(seconds=-8), False),
            (timedelta(days=9), False),
        ):
            issued_at = datetime.now(UTC) - age
            token = (await oauth.services.tokens.for_client(client, "ostiary", (), issued_at)).token
            assert await oauth.is_active(inspector, token) is active

    async def test_after_logout_a_token_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        _, access = await oauth.log_in()
        _, others = await oauth.log_in()
        await oauth.http.post("/auth/logout", headers={"Authorization": f"Bearer {access}"})
        assert not await oauth.is_active(inspector, access)
        assert await oauth.is_active(inspector, others)

    async def test_after_the_user_is_disabled_or_deleted_or_changed_a_token_is_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        accounts = oauth.services.accounts
        (disabled, one), (deleted, two), (changed, three) = [await oauth.log_in() for _ in range(3)]
        context = Context(datetime.now(UTC))
        await accounts.disable(disabled.user.id, context)
        await accounts.delete(deleted.user.id, context)
        await accounts.set_roles(changed.user.id, ("admin", "user"), context)
        for token in (one, two, three):
            assert not await oauth.is_active(inspector, token)
        await accounts.enable(disabled.user.id, context)
        assert not await oauth.is_active(inspector, one)

    async def test_after_the_client_is_disabled_its_tokens_are_inactive(self, oauth: OAuth) -> None:
        inspector = await oauth.inspector()
        second = await oauth.register("second")
        token, others = await oauth.access(second), await oauth.access(oauth.worker)
        await oauth.services.clients.disable(second[0], Context(datetime.now(UTC)))
        assert not await oauth.is_active(inspector, token)
        assert await oauth.is_active(inspector, others)
