"""The contract, over HTTP through the gateway: the same against processes and against containers."""

import contextlib
import http.client
import ipaddress
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from clusters import NO_TLS, Cluster
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet
from people import PASSWORD, People


class TestMainJob:
    def test_register_login_profile_refresh_logout(self, client: httpx.Client, people: People) -> None:
        ada = people.new()
        assert client.get("/profiles/me", headers=ada.headers).json()["id"] == ada.id
        changed = client.patch("/profiles/me", json={"bio": "x"}, headers=ada.headers)
        assert (changed.status_code, changed.json()["bio"]) == (200, "x")
        renewed = client.post("/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]})
        assert renewed.status_code == 200
        bearer = {"Authorization": f"Bearer {renewed.json()['access_token']}"}
        assert client.get("/profiles/me", headers=bearer).json()["bio"] == "x"
        assert client.get("/auth/me", headers=bearer).json()["session_id"] == ada.tokens["session_id"]
        assert client.post("/auth/logout", headers=bearer).json() == {"revoked": 1}
        ended = client.post("/auth/refresh", json={"refresh_token": renewed.json()["refresh_token"]})
        assert (ended.status_code, ended.json()["code"]) == (401, "invalid_refresh_token")

    def test_people_see_their_own_profiles(self, client: httpx.Client, people: People) -> None:
        ada, bob = people.new(), people.new()
        client.put("/profiles/me", json={"bio": "ada's"}, headers=ada.headers)
        assert client.get("/profiles/me", headers=bob.headers).json()["bio"] is None
        assert client.get(f"/profiles/{ada.id}", headers=bob.headers).status_code == 403
        assert client.get(f"/profiles/{ada.id}", headers=ada.headers).json()["bio"] == "ada's"
        assert client.delete("/profiles/me", headers=ada.headers).status_code == 204
        assert client.get("/profiles/me", headers=ada.headers).json()["bio"] is None

    def test_an_address_is_registered_once_however_many_try(self, client: httpx.Client, people: People) -> None:
        account = {"email": people.new().email.replace("person", "other"), "password": PASSWORD}

        def register(_: int) -> int:
            return client.post("/auth/register", json=account).status_code

        with ThreadPoolExecutor(10) as pool:
            assert sorted(pool.map(register, range(10))) == [201, *[409] * 9]

    def test_fifty_refreshes_of_one_token_at_once_are_one(self, client: httpx.Client, people: People) -> None:
        body = {"refresh_token": people.new().tokens["refresh_token"]}

        def refresh(_: int) -> tuple[int, str]:
            response = client.post("/auth/refresh", json=body)
            return response.status_code, response.json()["refresh_token"]

        with ThreadPoolExecutor(50) as pool:
            assert len(set(pool.map(refresh, range(50)))) == 1

    def test_logout_of_all_ends_all(self, client: httpx.Client, people: People) -> None:
        ada = people.new()
        account = {"email": ada.email, "password": PASSWORD}
        other = client.post("/auth/login", json=account).json()
        assert client.post("/auth/logout", json={"scope": "global"}, headers=ada.headers).json() == {"revoked": 2}
        refused = client.post("/auth/refresh", json={"refresh_token": other["refresh_token"]})
        assert refused.status_code == 401
        assert client.post("/auth/login", json=account).status_code == 200


class TestSessions:
    def test_one_sees_ones_devices_and_ends_each(self, client: httpx.Client, people: People) -> None:
        ada = people.new()
        account = {"email": ada.email, "password": PASSWORD}
        phone = client.post("/auth/login", json=account, headers={"User-Agent": "Okapi/1.0 (iPhone)"}).json()
        listed = client.get("/auth/sessions", headers=ada.headers).json()["sessions"]
        assert {each["id"]: each["current"] for each in listed} == {
            ada.tokens["session_id"]: True,
            phone["session_id"]: False,
        }
        assert "Okapi on iPhone" in {each["device"] for each in listed}
        ended = client.delete(f"/auth/sessions/{phone['session_id']}", headers=ada.headers)
        assert (ended.status_code, ended.json()) == (200, {"revoked": 1})
        assert client.post("/auth/refresh", json={"refresh_token": phone["refresh_token"]}).status_code == 401
        assert len(client.get("/auth/sessions", headers=ada.headers).json()["sessions"]) == 1

    def test_a_session_shows_the_clients_address_and_not_the_gateways(
        self, client: httpx.Client, people: People
    ) -> None:
        ada = people.new()
        forged = {**ada.headers, "X-Forwarded-For": "203.0.113.9"}
        (session,) = client.get("/auth/sessions", headers=forged).json()["sessions"]
        assert ipaddress.ip_address(session["address"]).is_private
        assert session["address"] != "203.0.113.9"

    def test_a_changed_password_ends_the_others(self, client: httpx.Client, people: People) -> None:
        ada = people.new()
        account = {"email": ada.email, "password": PASSWORD}
        other = client.post("/auth/login", json=account).json()
        new = "another horse battery staple"
        body = {"current_password": PASSWORD, "new_password": new}
        assert client.post("/auth/password", json=body, headers=ada.headers).status_code == 204
        assert client.post("/auth/refresh", json={"refresh_token": other["refresh_token"]}).status_code == 401
        assert client.post("/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]}).status_code == 200
        assert client.post("/auth/login", json=account).status_code == 401
        assert client.post("/auth/login", json={**account, "password": new}).status_code == 200

    def test_the_owner_gets_in_while_somebody_guesses(self, client: httpx.Client, people: People) -> None:
        ada = people.new()
        device = dict(client.cookies)
        client.cookies.clear()
        wrong = {"email": ada.email, "password": "a wrong password"}
        answers = [client.post("/auth/login", json=wrong)]
        # On a slow machine, the first waits are over before the next guess.
        while answers[-1].status_code == 401:
            answers.append(client.post("/auth/login", json=wrong))
            assert len(answers) < 12
        assert len(answers) > 5
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["Retry-After"]) > 0
        client.cookies.update(device)
        right = client.post("/auth/login", json={"email": ada.email, "password": PASSWORD})
        assert right.status_code == 200


class TestClients:
    @pytest.fixture
    def credentials(self, cluster: Cluster) -> dict[str, str]:
        name = f"reports-{os.urandom(4).hex()}"
        secret = cluster.auth_command("clients", "create", name, "--scope", "profile:read", "--scope", "introspect")
        return {"client_id": name, "client_secret": secret.strip()}

    def test_a_client_gets_a_token_for_itself(self, client: httpx.Client, credentials: dict[str, str]) -> None:
        answer = client.post("/oauth/token", data={"grant_type": "client_credentials", **credentials})
        assert answer.status_code == 200, answer.text
        bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert client.get("/auth/me", headers=bearer).json()["id"] == credentials["client_id"]
        assert client.get("/auth/sessions", headers=bearer).json()["code"] == "not_a_user"
        assert client.get("/profiles/me", headers=bearer).json()["id"] == credentials["client_id"]
        assert client.patch("/profiles/me", json={"bio": "x"}, headers=bearer).json()["code"] == "insufficient_scope"

    def test_a_resource_server_asks_about_a_token(
        self, client: httpx.Client, people: People, credentials: dict[str, str]
    ) -> None:
        ada = people.new()
        ask = {"token": ada.tokens["access_token"], **credentials}
        assert client.post("/oauth/introspect", data=ask).json()["active"] is True
        client.post("/auth/logout", headers=ada.headers)
        assert client.post("/oauth/introspect", data=ask).json() == {"active": False}

    def test_a_public_client_refreshes_and_revokes(self, client: httpx.Client, people: People) -> None:
        first = {"refresh_token": people.new().tokens["refresh_token"], "client_id": "first-party"}
        renewed = client.post("/oauth/token", data={"grant_type": "refresh_token", **first})
        assert renewed.status_code == 200, renewed.text
        token = renewed.json()["refresh_token"]
        assert client.post("/oauth/revoke", data={"token": token, "client_id": "first-party"}).status_code == 200
        refused = client.post("/auth/refresh", json={"refresh_token": token})
        assert refused.json()["code"] == "invalid_refresh_token"


class TestAdministration:
    @pytest.fixture
    def admin(self, cluster: Cluster, client: httpx.Client) -> dict[str, str]:
        email = f"admin-{os.urandom(4).hex()}@example.com"
        cluster.auth_command("users", "create", email, "--role", "admin", "--password-stdin", stdin=f"{PASSWORD}\n")
        tokens = client.post("/auth/login", json={"email": email, "password": PASSWORD}).json()
        return {"Authorization": f"Bearer {tokens['access_token']}"}

    def test_an_admin_disables_a_user(self, client: httpx.Client, people: People, admin: dict[str, str]) -> None:
        ada = people.new()
        assert client.patch(f"/admin/users/{ada.id}", json={"disabled": True}, headers=ada.headers).status_code == 403
        changed = client.patch(f"/admin/users/{ada.id}", json={"disabled": True}, headers=admin)
        assert (changed.status_code, changed.json()["id"]) == (200, ada.id)
        assert client.post("/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]}).status_code == 401
        assert client.post("/auth/login", json={"email": ada.email, "password": PASSWORD}).status_code == 401

    def test_what_is_deleted_leaves_a_whole_audit_log(
        self, client: httpx.Client, people: People, admin: dict[str, str], cluster: Cluster
    ) -> None:
        ada = people.new()
        exported = client.get(f"/admin/users/{ada.id}/export", headers=admin).json()
        assert exported["user"]["email"] == ada.email
        assert client.delete(f"/admin/users/{ada.id}", headers=admin).status_code == 204
        assert client.get(f"/admin/users/{ada.id}", headers=admin).status_code == 404
        page = client.get("/admin/audit", params={"subject": f"user:{ada.id}"}, headers=admin).json()["entries"]
        assert page[-1]["event"] == "user.deleted"
        theirs = [entry for entry in page if entry["actor"] not in {"operator", page[-1]["actor"]}]
        assert {entry["event"] for entry in theirs} == {"user.registered", "login.succeeded"}
        assert all(entry["personal"] is None for entry in theirs)
        assert client.get("/admin/audit/verify", headers=admin).json()["intact"] is True
        assert cluster.auth_command("audit", "verify")


class TestForeignVerifiers:
    """Whoever reads the published metadata can verify our tokens, with nothing of ours."""

    @pytest.fixture
    def metadata(self, client: httpx.Client, cluster: Cluster) -> dict[str, str]:
        found: dict[str, str] = client.get("/.well-known/oauth-authorization-server").json()
        assert found["issuer"] == cluster.url
        assert found == client.get("/.well-known/openid-configuration").json()
        return found

    def test_pyjwt(self, metadata: dict[str, str], people: People) -> None:
        ada = people.new()
        token = ada.tokens["access_token"]
        key = jwt.PyJWKClient(metadata["jwks_uri"]).get_signing_key_from_jwt(token)
        claims = jwt.decode(token, key, algorithms=["RS256"], audience="ostiary", issuer=metadata["issuer"])
        assert claims["sub"] == ada.id

    def test_joserfc(self, metadata: dict[str, str], people: People) -> None:
        ada = people.new()
        keys = KeySet.import_key_set(httpx.get(metadata["jwks_uri"], trust_env=False, verify=NO_TLS).json())
        token = joserfc_jwt.decode(ada.tokens["access_token"], keys, algorithms=["RS256"])
        assert token.header["typ"] == "at+jwt"
        assert token.claims["sub"] == ada.id


class TestBadInput:
    """Each is a problem document that says what to do; none shows a traceback or harms the next request."""

    @pytest.mark.parametrize(
        ("method", "path", "body", "content_type", "status", "code"),
        [
            ("GET", "/nothing", b"", "", 404, "not_found"),
            ("GET", "/auth/login/", b"", "", 404, "not_found"),
            ("GET", "/metrics/x", b"", "", 404, "not_found"),
            ("GET", "/openapi.yaml", b"", "", 404, "not_found"),
            ("GET", "/auth/login", b"", "", 405, "method_not_allowed"),
            ("PUT", "/auth/register", b"{}", "application/json", 405, "method_not_allowed"),
            ("POST", "/auth/login", b"", "", 422, "invalid_request"),
            ("POST", "/auth/login", b'{"email":', "application/json", 400, "malformed_json"),
            ("POST", "/auth/login", b'{"email":"\xff"}', "application/json", 400, "malformed_json"),
            ("POST", "/auth/login", b"[" * 10_000, "application/json", 400, "malformed_json"),
            ("POST", "/auth/login", b"email=a&password=b", "application/x-www-form-urlencoded", 415, ""),
            ("POST", "/auth/login", b"<a/>", "application/xml", 415, "unsupported_media_type"),
            ("POST", "/auth/login", b"{}", "", 415, "unsupported_media_type"),
            ("POST", "/auth/login", b"null", "application/json", 422, "invalid_request"),
            ("POST", "/auth/login", b'{"email":{},"password":[]}', "application/json", 422, "invalid_request"),
            ("POST", "/auth/register", b'{"email":"a@b.c","password":"\\u0000aaaaaaaa"}', "application/json", 422, ""),
            ("POST", "/auth/register", b'{"email":"a@b.c","password":"\\ud800aaaaaaaa"}', "application/json", 422, ""),
            ("POST", "/auth/refresh", b'{"refresh_token":"unknown"}', "application/json", 401, "invalid_refresh_token"),
            ("POST", "/auth/login", b"x" * 10_000_000, "application/json", 413, "body_too_large"),
            ("POST", "/nothing", b"x" * 10_000_000, "application/json", 404, "not_found"),
            ("GET", "/profiles/me", b"", "", 401, "missing_token"),
            ("GET", "/profiles/a%2Fb", b"", "", 400, "encoded_character"),
        ],
    )
    def test_it_is_a_problem_document(
        self, client: httpx.Client, method: str, path: str, body: bytes, content_type: str, status: int, code: str
    ) -> None:
        headers = {"Content-Type": content_type} if content_type else {}
        response = client.request(method, path, content=body, headers=headers)
        assert response.status_code == status, response.text
        assert response.headers["Content-Type"] == "application/problem+json"
        assert code in response.json()["code"]
        assert "Traceback" not in response.text
        assert client.get("/livez").status_code == 200

    def test_a_body_of_unknown_length_has_a_limit_too(self, cluster: Cluster) -> None:
        connection = http.client.HTTPConnection(urlsplit(cluster.url).netloc, timeout=20)
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        connection.request("POST", "/auth/login", iter([b"x" * 100_000] * 100), headers, encode_chunked=True)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (413, "body_too_large")
        connection.close()

    def test_a_refused_change_loses_nothing(self, client: httpx.Client, people: People) -> None:
        ada = people.new()
        client.put("/profiles/me", json={"bio": "before"}, headers=ada.headers)
        json_headers = {**ada.headers, "Content-Type": "application/json"}
        for body in (b'{"bio":"af', b'{"bio":1}', b'{"bio":"\\u0000"}', b'{"id":"x"}', b"x" * 2_000_000):
            assert client.put("/profiles/me", content=body, headers=json_headers).is_client_error
        assert client.get("/profiles/me", headers=ada.headers).json()["bio"] == "before"

    @pytest.mark.parametrize(
        "target",
        ["/pub/../profiles/me", "//profiles/me", "/profiles%2fme", "/profiles/me;a", "/profiles/%00"],
    )
    def test_a_path_that_could_mean_two_things_is_refused(self, cluster: Cluster, target: str) -> None:
        answer = raw_request(cluster, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"ambiguous_path"' in answer or b'"encoded_character"' in answer

    @pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a b\r\n"])
    def test_a_request_has_one_host(self, cluster: Cluster, hosts: bytes) -> None:
        answer = raw_request(cluster, b"GET /.well-known/jwks.json HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize(
        ("request_bytes", "status", "code"),
        [
            (b"GARBAGE\r\n\r\n", 400, "invalid_request"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 400_000, 431, "head_too_large"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 20_000, 431, "head_too_large"),
            (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n", 400, "invalid_request"),
        ],
    )
    def test_a_head_has_a_form_and_a_limit(
        self, cluster: Cluster, request_bytes: bytes, status: int, code: str
    ) -> None:
        answer = raw_request(cluster, request_bytes)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert f'"code": "{code}"'.encode() in answer

    def test_trailers_are_no_header_fields(self, cluster: Cluster, people: People) -> None:
        token = people.new().tokens["access_token"].encode()
        fields = b"Host: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        head = b"PUT /profiles/me HTTP/1.1\r\n" + fields + b"\r\n"
        answer = raw_request(cluster, head + b"2\r\n{}\r\n0\r\nAuthorization: Bearer " + token + b"\r\n\r\n")
        assert b'"missing_token"' in answer

    def test_half_a_request_harms_nobody(self, cluster: Cluster, client: httpx.Client) -> None:
        fields = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
        half = b"POST /auth/login HTTP/1.1\r\n" + fields + b'\r\n{"email":'
        with socket.create_connection(address(cluster), timeout=20) as connection:
            connection.sendall(half)
        assert client.get("/.well-known/jwks.json").status_code == 200


class TestTokens:
    def test_a_changed_token_is_refused(self, client: httpx.Client, people: People) -> None:
        head, payload, signature = people.new().tokens["access_token"].split(".")
        for token in (f"{head}.{payload}.", f"{head}.{payload}.{signature[:-4]}AAAA", f"{head}.{payload}.{signature}="):
            response = client.get("/profiles/me", headers={"Authorization": f"Bearer {token}"})
            assert response.status_code == 401
            assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]

    def test_an_identity_header_from_outside_is_worth_nothing(self, client: httpx.Client, people: People) -> None:
        ada, bob = people.new(), people.new()
        headers = {**ada.headers, "X-User-Id": bob.id, "X_User_Id": bob.id, "X-Forwarded-User": bob.id}
        assert client.get("/profiles/me", headers=headers).json()["id"] == ada.id

    def test_the_keys_may_be_cached(self, client: httpx.Client) -> None:
        response = client.get("/.well-known/jwks.json")
        assert response.headers["Cache-Control"] == "public, max-age=300"
        again = client.get("/.well-known/jwks.json", headers={"If-None-Match": response.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


def address(cluster: Cluster) -> tuple[str, int]:
    port = urlsplit(cluster.url).port
    assert port is not None
    return "127.0.0.1", port


def raw_request(cluster: Cluster, request: bytes) -> bytes:
    """Send bytes as they are, which HTTP clients would tidy up, and return all that comes back."""
    with socket.create_connection(address(cluster), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):  # refused before it was all sent
            connection.sendall(request)
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        return bytes(received)
