"""What must hold when processes die, start in the wrong order, or cannot start at all."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from clusters import (
    BIN,
    NO_TLS,
    ROOT,
    RUN_SECONDS,
    LocalCluster,
    clean_environment,
    client_of,
    free_ports,
    is_alive,
    is_ready,
    is_running,
    run,
    wait_until,
)
from people import PASSWORD, People


class TestDirectAccess:
    """Nobody trusts the gateway: each service verifies by itself."""

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    def test_profile_refuses_who_has_no_token(self, local_cluster: LocalCluster, method: str) -> None:
        response = httpx.request(
            method, f"{local_cluster.urls['profile']}/profiles/me", json={}, trust_env=False, verify=NO_TLS
        )
        assert (response.status_code, response.json()["code"]) == (401, "missing_token")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="ostiary"'

    def test_profile_believes_no_identity_header(self, local_cluster: LocalCluster) -> None:
        headers = {"X-User-Id": "ada", "X-Forwarded-User": "ada", "X-Roles": "admin"}
        url = f"{local_cluster.urls['profile']}/profiles/me"
        assert httpx.get(url, headers=headers, trust_env=False, verify=NO_TLS).status_code == 401

    def test_profile_takes_a_good_token_from_anybody(self, local_cluster: LocalCluster) -> None:
        with client_of(local_cluster.url) as client:
            ada = People(client).new()
        url = f"{local_cluster.urls['profile']}/profiles/me"
        assert httpx.get(url, headers=ada.headers, trust_env=False, verify=NO_TLS).json()["id"] == ada.id

    def test_a_token_of_another_cluster_is_refused(
        self, local_cluster: LocalCluster, own_cluster: LocalCluster
    ) -> None:
        own_cluster.start_all()
        with client_of(own_cluster.url) as own, client_of(local_cluster.url) as other:
            ada = People(own).new()
            assert own.get("/profiles/me", headers=ada.headers).status_code == 200
            response = other.get("/profiles/me", headers=ada.headers)
            assert (response.status_code, response.json()["code"]) == (401, "wrong_issuer")


class TestHangups:
    def test_sighup_ends_no_service(self, local_cluster: LocalCluster) -> None:
        said = {"auth": "nothing to reload", "gateway": "routes reloaded", "profile": "nothing to reload"}
        for name, text in said.items():
            before = local_cluster.log(name).count(text)
            local_cluster.process(name).send_signal(signal.SIGHUP)
            wait_until(lambda: local_cluster.log(name).count(text) > before, f"{name} says what it did")  # noqa: B023 - called at once
            assert is_ready(local_cluster.operations[name])

    @pytest.mark.parametrize("service", ["auth", "profile"])
    def test_sighup_does_not_end_a_service_that_is_being_imported(self, service: str) -> None:
        script = f"""
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "ostiary_{service}.program":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Finder())
sys.argv = ["ostiary-{service}", "--help"]

from ostiary_{service}.cli import main

main()
"""
        done = run(sys.executable, "-c", script)
        assert done.returncode == 0, done.stderr


class TestDeaths:
    def test_issued_tokens_outlive_the_auth_service(self, own_cluster: LocalCluster) -> None:
        own_cluster.start_all()
        with client_of(own_cluster.url) as client:
            ada = People(client).new()
            statuses: list[int] = []
            enough, done = threading.Event(), threading.Event()

            def keep_asking() -> None:
                with client_of(own_cluster.url) as asking:
                    while not done.is_set():
                        statuses.append(asking.get("/profiles/me", headers=ada.headers).status_code)
                        if len(statuses) >= 50:
                            enough.set()

            asker = threading.Thread(target=keep_asking)
            asker.start()
            own_cluster.signal("auth", signal.SIGKILL)
            statuses.clear()
            assert enough.wait(RUN_SECONDS)
            done.set()
            asker.join()
            assert set(statuses) == {200}
            url = f"{own_cluster.urls['profile']}/profiles/me"
            assert httpx.get(url, headers=ada.headers, trust_env=False, verify=NO_TLS).status_code == 200

            refused = client.post("/auth/login", json={"email": ada.email, "password": PASSWORD})
            assert (refused.status_code, refused.json()["code"]) == (503, "upstream_unavailable")
            assert refused.headers["Retry-After"] == "1"

            own_cluster.start("auth")
            again = client.post("/auth/login", json={"email": ada.email, "password": PASSWORD})
            assert again.status_code == 200
            assert client.get("/auth/me", headers=ada.headers).status_code == 200

    def test_nothing_acknowledged_is_lost_when_auth_is_killed(self, own_cluster: LocalCluster) -> None:
        own_cluster.start_all()
        acknowledged: list[str] = []
        some = threading.Event()

        def register(number: int) -> None:
            email = f"person-{number}@example.com"
            with client_of(own_cluster.url) as client:
                response = client.post("/auth/register", json={"email": email, "password": PASSWORD})
            if response.status_code == 201:
                acknowledged.append(email)
                if len(acknowledged) == 10:
                    some.set()

        with ThreadPoolExecutor(4) as pool:
            attempts = [pool.submit(register, number) for number in range(200)]
            assert some.wait(RUN_SECONDS)
            own_cluster.signal("auth", signal.SIGKILL)
            for attempt in attempts:
                attempt.cancel()
        own_cluster.start("auth")
        with client_of(own_cluster.url) as client:
            for email in acknowledged:
                assert client.post("/auth/login", json={"email": email, "password": PASSWORD}).status_code == 200

    def test_a_killed_service_is_a_problem_document(self, own_cluster: LocalCluster) -> None:
        own_cluster.start_all()
        with client_of(own_cluster.url) as client:
            ada = People(client).new()
            client.put("/profiles/me", json={"bio": "kept"}, headers=ada.headers)
            own_cluster.signal("profile", signal.SIGKILL)
            response = client.get("/profiles/me", headers=ada.headers)
            assert (response.status_code, response.json()["code"]) == (503, "upstream_unavailable")
            own_cluster.start("profile")
            assert client.get("/profiles/me", headers=ada.headers).json()["bio"] == "kept"

    def test_sigterm_ends_each_service_cleanly(self, own_cluster: LocalCluster) -> None:
        own_cluster.start_all()
        for service in ("gateway", "profile", "auth"):
            own_cluster.stop(service)
            assert "Traceback" not in own_cluster.log(service)


class TestWrongOrder:
    def test_verifiers_wait_for_the_auth_service(self, own_cluster: LocalCluster) -> None:
        for service in ("gateway", "profile"):
            own_cluster.start(service, wait=False)
            wait_until(partial(is_alive, own_cluster.urls[service]), f"{service} is alive")
            assert not is_ready(own_cluster.operations[service])
        claims = base64.urlsafe_b64encode(json.dumps({"iss": own_cluster.url}).encode()).decode().rstrip("=")
        token = f"eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImsifQ.{claims}.AAAA"
        with client_of(own_cluster.url) as client:
            response = client.get("/profiles/me", headers={"Authorization": f"Bearer {token}"})
            assert (response.status_code, response.json()["code"]) == (503, "keys_unavailable")
            own_cluster.start("auth")
            for service in ("gateway", "profile"):
                wait_until(partial(is_ready, own_cluster.operations[service]), "keys are there")
            ada = People(client).new()
            assert client.get("/profiles/me", headers=ada.headers).status_code == 200

    def test_two_clusters_run_side_by_side(self, local_cluster: LocalCluster, own_cluster: LocalCluster) -> None:
        own_cluster.start_all()
        with client_of(own_cluster.url) as own, client_of(local_cluster.url) as other:
            email = People(own).new().email
            assert own.post("/auth/login", json={"email": email, "password": PASSWORD}).status_code == 200
            assert other.post("/auth/login", json={"email": email, "password": PASSWORD}).status_code == 401


class Runner:
    """`make run` without make: `deploy/local.py`, with its output."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        gateway, admin, auth, profile, app, pages = free_ports(6)
        self.url = f"http://localhost:{gateway}"
        self.environ = clean_environment(
            **{
                "OSTIARY_GATEWAY_PORT": str(gateway),
                "OSTIARY_GATEWAY_ADMIN_PORT": str(admin),
                "OSTIARY_AUTH_PORT": str(auth),
                "OSTIARY_PROFILE_PORT": str(profile),
                "OSTIARY_APP_PORT": str(app),
                "OSTIARY_PAGES_PORT": str(pages),
                "OSTIARY_DATA_DIR": str(data_dir),
                **settings,
            }
        )

    def start(self, *, start_new_session: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "deploy/local.py"],
            env=self.environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )


class TestRunner:
    def test_it_says_where_it_listens_and_stops_on_ctrl_c(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path / "data")
        for _ in range(2):
            process = runner.start()
            seen = read_until_ready(process)
            assert sum(line.startswith(f"  curl {runner.url}/") for line in seen) == 3
            pids = [int(pid) for pid in re.findall(r"started \(pid=(\d+)\)", "".join(seen))]
            assert len(pids) == 5
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=RUN_SECONDS)
            assert process.returncode == 0
            assert errors == ""
            assert "Traceback" not in "".join(seen) + rest
            assert not any(is_running(pid) for pid in pids)

    def test_started_again_at_once_it_waits_for_nobody_who_has_left(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path / "data")
        for _ in range(2):
            process = runner.start()
            read_until_ready(process)
            with httpx.Client(base_url=runner.url, trust_env=False, verify=NO_TLS) as client:
                user = People(client).new()
                answer = client.post("/auth/logout", headers={**user.headers, "Prefer": "wait=30"})
            assert answer.json()["complete"] is True
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=RUN_SECONDS)

    def test_a_service_that_dies_is_started_again_and_the_others_go_on(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path / "data")
        process = runner.start()
        seen = read_until_ready(process)
        with httpx.Client(base_url=runner.url, trust_env=False, verify=NO_TLS) as client:
            ada = People(client).new()
            os.kill(pid_of("auth", seen), signal.SIGKILL)
            lines = read_until(process, "auth was killed (SIGKILL); starting it again in 1 s, the others go on")
            assert client.get("/profiles/me", headers=ada.headers).status_code == 200
            lines += read_until(process, "auth started")
            os.kill(pid_of("auth", lines), signal.SIGKILL)
            lines = read_until(process, "auth was killed (SIGKILL); starting it again in 2 s, the others go on")
            lines += read_until(process, "auth started")
            wait_until(lambda: client.get("/auth/me", headers=ada.headers).status_code == 200, "auth is back")
            assert client.get("/profiles/me", headers=ada.headers).status_code == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == 0
        assert not any(is_running(pid_of(name, seen + lines)) for name in ("auth", "gateway", "profile"))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_no_signal_leaves_anybody_running(self, tmp_path: Path, number: signal.Signals) -> None:
        process = Runner(tmp_path / "data").start(start_new_session=True)
        seen = read_until_ready(process)
        pids = [int(pid) for pid in re.findall(r"started \(pid=(\d+)\)", "".join(seen))]
        os.kill(pids[0], signal.SIGKILL)
        read_until(process, "starting it again in 1 s")
        # To the whole group, as terminals do.
        os.killpg(process.pid, number)
        rest, errors = process.communicate(timeout=RUN_SECONDS)
        assert (process.returncode, errors) == (0, "")
        pids += [int(pid) for pid in re.findall(r"started \(pid=(\d+)\)", rest)]
        assert not any(is_running(pid) for pid in pids)

    def test_it_ends_when_nobody_reads_it_any_more(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path / "data")
        process = runner.start()
        pids = [int(pid) for pid in re.findall(r"started \(pid=(\d+)\)", "".join(read_until_ready(process)))]
        assert process.stdout is not None
        process.stdout.close()
        # Whatever is printed next finds the pipe closed.
        httpx.get(f"{runner.url}/nothing", trust_env=False, verify=NO_TLS)
        assert process.wait(RUN_SECONDS) is not None
        assert process.stderr is not None
        process.stderr.close()
        assert not any(is_running(pid) for pid in pids)

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_the_printed_curl_lines_work(self, tmp_path: Path) -> None:
        process = Runner(tmp_path / "data").start()
        try:
            lines = read_until_ready(process)
            register, login, profile = [line.strip() for line in lines if line.startswith("  curl ")]
            assert shell(register)["email"] == "ada@example.com"
            token = str(shell(login)["access_token"])
            assert shell(profile.replace("<access_token>", token))["bio"] is None
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=RUN_SECONDS)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"OSTIARY_AUTH_PORT": "eighty"}, "OSTIARY_AUTH_PORT: input should be a valid integer"),
            ({"OSTIARY_GATEWAY_PORT": "70000"}, "OSTIARY_GATEWAY_PORT: input should be less than"),
            ({"OSTIARY_ISSUER": "localhost"}, "OSTIARY_ISSUER: must be http:// or https://"),
            ({"OSTIARY_GATEWAYPORT": "8080"}, "OSTIARY_GATEWAYPORT: unknown setting; did you mean"),
            ({"OSTIARY_GATEWAY_ROUTES": "none.yaml"}, "OSTIARY_GATEWAY_ROUTES: cannot read none.yaml"),
            ({"OSTIARY_DATA_DIR": "/dev/null/data"}, "OSTIARY_DATA_DIR: cannot write in /dev/null/data"),
            ({"OSTIARY_GATEWAY_PORT": "20001", "OSTIARY_AUTH_PORT": "20001"}, "must differ"),
            ({"OSTIARY_APP_PORT": "20001", "OSTIARY_PROFILE_PORT": "20001"}, "must differ"),
            ({"OSTIARY_AUTH_DATABASE_URL": "mysql://u@h/d"}, "OSTIARY_AUTH_DATABASE_URL: must be sqlite"),
        ],
    )
    def test_a_bad_setting_is_one_line(self, tmp_path: Path, settings: dict[str, str], message: str) -> None:
        process = Runner(tmp_path / "data", **settings).start()
        output, errors = process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == 2
        assert output == ""
        assert errors.count("\n") == 1
        assert message in errors

    @pytest.mark.parametrize("service", ["GATEWAY", "GATEWAY_ADMIN", "AUTH", "PROFILE", "APP", "PAGES"])
    def test_a_port_in_use_is_one_line(self, tmp_path: Path, service: str) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = str(other.getsockname()[1])
            process = Runner(tmp_path / "data", **{f"OSTIARY_{service}_PORT": port}).start()
            output, errors = process.communicate(timeout=RUN_SECONDS)
        assert (process.returncode, output) == (2, "")
        expected = f"make run: OSTIARY_{service}_PORT: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
        assert errors == expected


def read_until_ready(process: subprocess.Popen[str]) -> list[str]:
    """Return the lines that a runner prints up to the end of its banner."""
    return read_until(process, "Stop with Ctrl-C")


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Return the lines that a runner prints up to one that contains a text."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def pid_of(name: str, lines: list[str]) -> int:
    """Return the process that was started last under a name, as the lines say."""
    return int(re.findall(rf"{name} started \(pid=(\d+)\)", "".join(lines))[-1])


def shell(command: str) -> dict[str, object]:
    """Run a line as a user would paste it, and return the JSON that it prints."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=RUN_SECONDS, check=True)  # noqa: S602 - as a user does
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


class TestCommands:
    """Each service says by itself, in one line, why it cannot start."""

    @pytest.mark.parametrize("service", ["auth", "profile", "gateway"])
    def test_a_bad_setting_is_one_line(self, tmp_path: Path, service: str) -> None:
        settings = {f"OSTIARY_{service.upper()}_PORT": "x", "OSTIARY_DATA_DIR": str(tmp_path)}
        done = run(BIN / f"ostiary-{service}", "serve", env=clean_environment(**settings))
        assert done.returncode == 2
        assert done.stderr.startswith(f"ostiary-{service}: OSTIARY_{service.upper()}_PORT: ")
        assert (done.stderr.count("\n"), done.stdout) == (1, "")

    def test_the_images_check_tells_by_its_exit_code(self, own_cluster: LocalCluster) -> None:
        def check(service: str, path: str) -> int:
            port = own_cluster.operations[service].rpartition(":")[2]
            return run(ROOT / "deploy/ostiary-check", port, path, env=own_cluster.environ).returncode

        assert check("profile", "/livez") != 0
        # Without the auth service it lives, and is not ready.
        own_cluster.start("profile", wait=False)
        wait_until(lambda: check("profile", "/livez") == 0, "it lives")
        assert check("profile", "/readyz") != 0
        assert check("profile", "/nothing") != 0
        for service in ("auth", "gateway"):
            own_cluster.start(service)
            assert [check(service, path) for path in ("/livez", "/readyz")] == [0, 0]

    def test_a_bad_routes_file_names_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text("upstreams: {a: {url: 'http://a'}}\nroutes:\n  - {name: r, upstream: a}\n")
        done = run(BIN / "ostiary-gateway", "check", file)
        assert done.returncode == 2
        assert f"{file}:3: routes[0].match: required field is missing" in done.stderr
        assert f"{file}:3: routes[0].access: required field is missing" in done.stderr

    def test_explain_looks_at_a_token_as_the_gateway_does(self, local_cluster: LocalCluster, tmp_path: Path) -> None:
        file = tmp_path / "token"
        with client_of(local_cluster.url) as client:
            file.write_text(People(client).new().headers["Authorization"].removeprefix("Bearer ") + "\n")
        for path, code, answer in (
            ("/profiles/me", 0, "upstream    profile"),
            ("/admin/users", 1, "missing     scope admin"),
        ):
            command = (BIN / "ostiary-gateway", "explain", "GET", path, "--token-file", file)
            done = run(*command, env=local_cluster.environ)
            assert done.returncode == code, done.stdout
            assert answer in done.stdout
            assert file.read_text().strip() not in done.stdout + done.stderr

    def test_policy_compares_what_the_services_say_themselves(self, local_cluster: LocalCluster) -> None:
        auth = local_cluster.urls["auth"]
        gone = {"OSTIARY_PROFILE_URL": "http://127.0.0.1:1"}
        for arguments, settings, code, last in (
            ([], {}, 0, "differences: 0; compared: auth, profile\n"),
            (["--openapi", f"{auth}/openapi.json"], {}, 0, "not compared: profile\n"),
            (["--openapi", f"{auth}/none.json"], {}, 2, f"{auth}/none.json: response with status 404\n"),
            ([], gone, 2, "http://127.0.0.1:1/openapi.json: [Errno 111] Connection refused\n"),
        ):
            done = run(BIN / "ostiary-gateway", "policy", *arguments, env={**local_cluster.environ, **settings})
            assert (done.stdout + done.stderr).endswith(last)
            assert done.returncode == code


class TestDemo:
    DEMO = (sys.executable, "demo/demo.py")

    def test_it_plays_the_whole_story(self, local_cluster: LocalCluster) -> None:
        done = run(*self.DEMO, local_cluster.url, env=local_cluster.environ)
        assert done.returncode == 0, done.stdout
        assert "All 24 steps passed" in done.stdout
        assert re.search(r"gateway [\d.]+ ms, second gateway [\d.]+ ms, profile [\d.]+ ms, auth [\d.]+ ms", done.stdout)

    def test_it_fails_when_a_step_is_not_as_promised(self, own_cluster: LocalCluster) -> None:
        for service in ("auth", "gateway"):
            own_cluster.start(service)
        done = run(*self.DEMO, own_cluster.url)
        assert done.returncode == 1
        assert "FAILED: step 4: status 503 instead of 200" in done.stdout

    def test_it_fails_without_a_cluster(self) -> None:
        (port,) = free_ports(1)
        done = run(*self.DEMO, f"http://localhost:{port}")
        assert done.returncode == 1
        assert "Is the cluster running" in done.stdout
