"""The compose stack: how its containers are locked down, and what survives when one of them stops."""

import re
import sys

import httpx
import pytest
from clusters import ComposeCluster, run, wait_until
from people import PASSWORD, People

pytestmark = pytest.mark.docker

OURS = ("gateway", "auth", "profile")
EXAMPLES = ("app", "pages")
ALL = (*OURS, *EXAMPLES, "postgres")


@pytest.fixture(scope="session")
def cluster(compose_cluster: ComposeCluster) -> ComposeCluster:
    return compose_cluster


class TestHardening:
    @pytest.mark.parametrize("service", ALL)
    def test_the_root_file_system_is_read_only(self, compose_cluster: ComposeCluster, service: str) -> None:
        container = compose_cluster.container(service)
        assert container.attrs["HostConfig"]["ReadonlyRootfs"] is True
        assert compose_cluster.execute(service, "touch", "/opt/x")[0] != 0

    @pytest.mark.parametrize("service", ALL)
    def test_privileges_are_dropped(self, compose_cluster: ComposeCluster, service: str) -> None:
        config = compose_cluster.container(service).attrs["HostConfig"]
        assert config["CapDrop"] == ["ALL"]
        assert config["SecurityOpt"] == ["no-new-privileges:true"]
        assert not config["Privileged"]
        assert (config["CapAdd"] is None) is (service != "postgres")

    @pytest.mark.parametrize("service", OURS + EXAMPLES)
    def test_nothing_runs_as_root(self, compose_cluster: ComposeCluster, service: str) -> None:
        assert compose_cluster.execute(service, "id", "-u") == (0, "10001\n")
        assert compose_cluster.execute(service, "stat", "--format=%u:%g", "/proc/1") == (0, "10001:10001\n")

    def test_only_the_gateways_port_is_published(self, compose_cluster: ComposeCluster) -> None:
        published = {
            container.labels["com.docker.compose.service"]: bindings
            for container in compose_cluster.containers()
            for bindings in container.attrs["NetworkSettings"]["Ports"].values()
            if bindings
        }
        assert published.keys() == {"gateway"}
        assert {binding["HostIp"] for binding in published["gateway"]} == {"127.0.0.1"}

    def test_what_may_not_talk_to_whom_cannot(self, compose_cluster: ComposeCluster) -> None:
        script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
        reaches = {
            (source, target): compose_cluster.execute(source, "python", "-c", script, target, port)[0] == 0
            for source in OURS + EXAMPLES
            for target, port in (("postgres", "5432"), ("auth", "8081"), ("profile", "8082"))
        }
        refused = {(source, "postgres") for source in ("gateway", *EXAMPLES)}
        assert {pair for pair, possible in reaches.items() if not possible} == refused

    def test_secrets_are_in_files_only(self, compose_cluster: ComposeCluster) -> None:
        secrets = [file.read_text().strip() for file in compose_cluster.secrets_dir.iterdir()]
        assert len(secrets) == 6
        assert compose_cluster.secrets_dir.stat().st_mode & 0o077 == 0
        for container in compose_cluster.containers():
            assert container.image is not None
            texts = [str(container.attrs), container.logs().decode(), str(container.image.history())]
            assert not any(secret in text for secret in secrets for text in texts)

    def test_a_service_sees_only_its_own_secrets(self, compose_cluster: ComposeCluster) -> None:
        def secrets_of(service: str) -> set[str]:
            code, output = compose_cluster.execute(service, "ls", "/run/secrets")
            return set(output.split()) if code == 0 else set()

        assert secrets_of("auth") == {"auth-db-password", "auth-kek", "feed-secret", "gateway-secret"}
        assert secrets_of("profile") == {"profile-db-password", "feed-secret"}
        assert secrets_of("gateway") == {"feed-secret", "gateway-secret"}
        for service in EXAMPLES:
            assert secrets_of(service) == {"feed-secret"}

    @pytest.mark.parametrize("service", OURS)
    def test_an_image_holds_one_service_and_no_tools(self, compose_cluster: ComposeCluster, service: str) -> None:
        code, output = compose_cluster.execute(service, "ls", "/opt/ostiary/bin")
        assert code == 0
        commands = {name for name in output.split() if name.startswith(("ostiary", "pip", "uv", "hatch"))}
        assert commands == {f"ostiary-{service}", "uvicorn"}

    @pytest.mark.parametrize("service", EXAMPLES)
    def test_an_example_s_image_holds_no_service(self, compose_cluster: ComposeCluster, service: str) -> None:
        code, output = compose_cluster.execute(service, "ls", "/opt/ostiary/bin")
        assert code == 0
        commands = {name for name in output.split() if name.startswith(("ostiary", "pip", "uv", "hatch"))}
        assert commands == {"uvicorn"}

    def test_the_examples_are_served(self, client: httpx.Client) -> None:
        assert "<title>Ostiary</title>" in client.get("/").text
        assert client.get("/pages/style.css").headers["Content-Type"].startswith("text/css")


class TestDemo:
    def test_one_logout_and_four_verifiers(self, compose_cluster: ComposeCluster) -> None:
        done = run(sys.executable, "demo/demo.py", compose_cluster.url, env=compose_cluster.environ)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"gateway [\d.]+ ms, second gateway [\d.]+ ms, profile [\d.]+ ms, auth [\d.]+ ms", done.stdout)


class TestReplicas:
    def test_all_addresses_of_a_name_are_served_by_and_one_that_is_gone_is_missed_by_nobody(
        self, compose_cluster: ComposeCluster, client: httpx.Client
    ) -> None:
        ada = People(client).new()

        def statuses() -> set[int]:
            return {client.get("/profiles/me", headers=ada.headers).status_code for _ in range(8)}

        def have_all_served() -> bool:
            assert statuses() == {200}
            return all(b'"/profiles/me"' in each.logs() for each in replicas)

        try:
            replicas = compose_cluster.scale("profile", 3)
            assert len(replicas) == 3
            wait_until(have_all_served, "requests get to each of them")
            # Without a word to anybody.
            replicas[0].kill()
            assert statuses() == {200}
        finally:
            compose_cluster.scale("profile", 1)
        assert statuses() == {200}


class TestWhatSurvives:
    def test_issued_tokens_outlive_the_auth_container(
        self, compose_cluster: ComposeCluster, client: httpx.Client
    ) -> None:
        ada = People(client).new()
        account = {"email": ada.email, "password": PASSWORD}
        compose_cluster.stop("auth")
        try:
            for _ in range(20):
                assert client.get("/profiles/me", headers=ada.headers).status_code == 200
            refused = client.post("/auth/login", json=account)
            assert (refused.status_code, refused.json()["code"]) == (503, "upstream_unavailable")
        finally:
            compose_cluster.start("auth")
        assert client.post("/auth/login", json=account).status_code == 200
        assert client.get("/auth/me", headers=ada.headers).status_code == 200

    def test_a_database_that_is_away_is_said_so_and_comes_back(
        self, compose_cluster: ComposeCluster, client: httpx.Client
    ) -> None:
        ada = People(client).new()
        client.put("/profiles/me", json={"bio": "kept"}, headers=ada.headers)
        account = {"email": ada.email, "password": PASSWORD}
        compose_cluster.stop("postgres")
        try:
            for response in (
                client.post("/auth/login", json=account),
                client.post("/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]}),
                client.get("/profiles/me", headers=ada.headers),
            ):
                assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
                assert response.headers["Retry-After"] == "1"
            # Verifying needs no database.
            assert client.get("/auth/me", headers=ada.headers).status_code == 200
            assert client.get("/profiles/x", headers={"Authorization": "Bearer x"}).status_code == 401
        finally:
            compose_cluster.start("postgres")
        assert client.post("/auth/login", json=account).status_code == 200
        assert client.get("/profiles/me", headers=ada.headers).json()["bio"] == "kept"

    def test_a_gateway_that_restarts_finds_the_keys_again(
        self, compose_cluster: ComposeCluster, client: httpx.Client
    ) -> None:
        ada = People(client).new()
        compose_cluster.stop("gateway")
        compose_cluster.start("gateway")
        assert client.get("/profiles/me", headers=ada.headers).status_code == 200
