"""Client authentication with a secret, and forms."""

import base64
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from oauth_harness import CLIENT_CREDENTIALS, FIRST_PARTY, INTROSPECT, JWT_BEARER, NOW, REVOKE, TOKEN, OAuth, refused

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.oauth.clients import OLD_SECRET_GRACE
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID, Credentials

#: One application serves all tests here.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestClientAuthentication:
    """RFC 6749 section 2.3."""

    async def test_a_secret_goes_into_the_header_or_into_the_form(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        in_form = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret}
        assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker)).status_code == 200
        assert (await oauth.post(TOKEN, in_form)).status_code == 200
        with_id = {**CLIENT_CREDENTIALS, "client_id": client_id}
        assert (await oauth.post(TOKEN, with_id, oauth.worker)).status_code == 200

    async def test_a_client_authenticates_in_one_way_only(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        in_form = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret}
        by_assertion = {"client_assertion": "x.y.z", "client_assertion_type": JWT_BEARER}
        refused(await oauth.post(TOKEN, in_form, oauth.worker), "invalid_request")
        refused(await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, **by_assertion}, oauth.worker), "invalid_request")
        refused(await oauth.post(TOKEN, {**in_form, **by_assertion}), "invalid_request")
        field = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        twice = [("Authorization", field), ("Authorization", field)]
        response = await oauth.http.post(TOKEN, data=CLIENT_CREDENTIALS, headers=twice)
        refused(response, "invalid_request")

    async def test_the_form_may_not_name_another_client_than_the_header(self, oauth: OAuth) -> None:
        for other in ("inspector", FIRST_PARTY_CLIENT_ID, "WORKER"):
            refused(
                await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "client_id": other}, oauth.worker), "invalid_request"
            )

    async def test_what_basic_carries_is_form_encoded(self, oauth: OAuth) -> None:
        encoded = ["".join(f"%{byte:02X}" for byte in part.encode()) for part in oauth.worker]
        assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, (encoded[0], encoded[1]))).status_code == 200
        client_id, secret = oauth.worker
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, (client_id, f"{secret}+")), "invalid_client")

    async def test_the_scheme_is_case_insensitive(self, oauth: OAuth) -> None:
        field = "bAsIc  " + base64.b64encode(":".join(oauth.worker).encode()).decode()
        response = await oauth.http.post(TOKEN, data=CLIENT_CREDENTIALS, headers={"Authorization": field})
        assert response.status_code == 200

    async def test_a_broken_basic_authenticates_nobody(self, oauth: OAuth) -> None:
        client_id = oauth.worker[0].encode()
        contents = [client_id, b":", client_id + b":", b":secret", b"", b"\xff:\xff", b"%00:%00", b"%ff:%ff", b"\0:\0"]
        fields = [b"Basic " + base64.b64encode(content) for content in contents]
        fields += [b"Basic", b"Basic !!!", b"Basic d29ya2V", b"Bearer x", b"Digest x", b"", b"Basic \xe9", b"\xe9 x"]
        for field in fields:
            response = await oauth.http.post(TOKEN, data=CLIENT_CREDENTIALS, headers=[(b"Authorization", field)])
            refused(response, "invalid_client")

    async def test_a_wrong_secret_is_refused(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        for wrong in ("x", secret[:-1], secret + "x", secret.swapcase(), "\u00e9", "x" * 5000):
            refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, (client_id, wrong)), "invalid_client")
            in_form = {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": wrong}
            refused(await oauth.post(TOKEN, in_form), "invalid_client")

    async def test_a_client_with_a_secret_must_show_it(self, oauth: OAuth) -> None:
        for path in (TOKEN, REVOKE, INTROSPECT):
            form = {**CLIENT_CREDENTIALS, "client_id": oauth.worker[0], "token": "x", "client_secret": ""}
            refused(await oauth.post(path, form), "invalid_client")

    async def test_an_unknown_client_is_refused_like_a_wrong_secret(self, oauth: OAuth) -> None:
        wrong = await oauth.post(TOKEN, CLIENT_CREDENTIALS, (oauth.worker[0], "x"))
        for client_id in (
            "nobody",
            oauth.worker[0].upper(),
            f"{oauth.worker[0]} ",
            "\u00e9",
            "x" * 5000,
            "' OR 1=1 --",
            "worker",
        ):
            response = await oauth.post(TOKEN, {**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": "x"})
            refused(response, "invalid_client")
            assert response.json() == wrong.json()
        for path in (TOKEN, REVOKE, INTROSPECT):
            refused(await oauth.post(path, {**CLIENT_CREDENTIALS, "token": "x"}), "invalid_client")

    async def test_a_disabled_client_is_refused_until_it_is_enabled(self, oauth: OAuth) -> None:
        basic = await oauth.register("second")
        await oauth.services.clients.disable(basic[0], Context(NOW))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, basic), "invalid_client")
        assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker)).status_code == 200
        credentials = Credentials(*basic)
        with pytest.raises(InvalidClient):
            await oauth.services.clients.authenticate(credentials, Context(NOW))
        await oauth.services.clients.enable(basic[0], Context(NOW))
        assert (await oauth.services.clients.authenticate(credentials, Context(NOW))).id == basic[0]

    async def test_a_deleted_client_is_refused(self, oauth: OAuth) -> None:
        basic = await oauth.register("second")
        await oauth.services.clients.delete(basic[0], Context(NOW))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, basic), "invalid_client")

    async def test_a_public_client_with_a_secret_is_refused(self, oauth: OAuth) -> None:
        grant, _ = await oauth.log_in()
        for secret in ("x", "first-party", "-"):
            form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
            refused(await oauth.post(TOKEN, form, (FIRST_PARTY_CLIENT_ID, secret)), "invalid_client")
            refused(await oauth.post(TOKEN, {**FIRST_PARTY, **form, "client_secret": secret}), "invalid_client")
        assert (await oauth.refresh(grant.refresh_token)).status_code == 200

    async def test_credentials_in_the_uri_are_not_read(self, oauth: OAuth) -> None:
        client_id, secret = oauth.worker
        query = urlencode({**CLIENT_CREDENTIALS, "client_id": client_id, "client_secret": secret})
        refused(await oauth.http.post(f"{TOKEN}?{query}", data=CLIENT_CREDENTIALS), "invalid_client")

    async def test_a_failure_is_logged_and_leaves_nothing_for_ever(
        self, oauth: OAuth, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with oauth.services.store.read() as transaction:
            before = await transaction.audit.entries(after=0, limit=1000)
        await oauth.post(TOKEN, CLIENT_CREDENTIALS, (oauth.worker[0], "wrong-secret"))
        async with oauth.services.store.read() as transaction:
            assert await transaction.audit.entries(after=0, limit=1000) == before
        printed = capsys.readouterr().out
        assert "client authentication failed" in printed
        assert oauth.worker[0] in printed
        assert "wrong-secret" not in printed

    async def test_an_old_secret_is_good_for_a_day(self, oauth: OAuth) -> None:
        clients = oauth.services.clients
        old, rotated_at = Credentials(*oauth.worker), datetime.now(UTC)
        new = Credentials(oauth.worker[0], await clients.rotate_secret(oauth.worker[0], Context(rotated_at)))
        assert new.secret is not None
        assert OLD_SECRET_GRACE.total_seconds() == 24 * 3600
        for basic in (oauth.worker, (oauth.worker[0], new.secret)):
            assert (await oauth.post(TOKEN, CLIENT_CREDENTIALS, basic)).status_code == 200
        last = Context(rotated_at + OLD_SECRET_GRACE - timedelta(seconds=1))
        assert (await clients.authenticate(old, last)).id == oauth.worker[0]
        over = Context(rotated_at + OLD_SECRET_GRACE)
        with pytest.raises(InvalidClient):
            await clients.authenticate(old, over)
        assert (await clients.authenticate(new, over)).id == oauth.worker[0]

    async def test_a_second_rotation_ends_the_first_secret_at_once(self, oauth: OAuth) -> None:
        for _ in range(2):
            await oauth.services.clients.rotate_secret(oauth.worker[0], Context(NOW))
        refused(await oauth.post(TOKEN, CLIENT_CREDENTIALS, oauth.worker), "invalid_client")
