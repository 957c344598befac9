"""Every operation of the services, fuzzed from its own OpenAPI document: no 500, and nothing that is not documented."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
from clusters import BIN, NO_TLS, LocalCluster, run
from people import PASSWORD

#: All but the check that every valid request is accepted: services have rules that a schema cannot express.
CHECKS = "all"
EXCLUDED_CHECK = "positive_data_acceptance"

#: Generated requests for each operation, besides those from its examples and at its limits.
EXAMPLES = 8

#: Seconds that an answer may take beside other tests: a password's hash waits for a core.
ANSWER_SECONDS = 60

#: The same requests each time, so that failures can be reproduced. Other seeds find others.
SEED = "1"


@pytest.fixture(scope="session")
def token(local_cluster: LocalCluster) -> str:
    """An administrator's token."""
    email = f"admin-{os.urandom(4).hex()}@example.com"
    roles = ("--role", "user", "--role", "admin")
    local_cluster.auth_command("users", "create", email, *roles, "--password-stdin", stdin=f"{PASSWORD}\n")
    login = {"email": email, "password": PASSWORD}
    answer = httpx.post(f"{local_cluster.url}/auth/login", json=login, trust_env=False, verify=NO_TLS).json()
    access: str = answer["access_token"]
    return access


@pytest.mark.parametrize("service", ["auth", "profile"])
def test_what_it_answers_is_what_it_documents(
    local_cluster: LocalCluster, token: str, service: str, tmp_path: Path
) -> None:
    fuzz(f"{local_cluster.urls[service]}/openapi.json", token, tmp_path)


def test_the_gateways_document_has_its_own_answers_too(local_cluster: LocalCluster, token: str, tmp_path: Path) -> None:
    """The operations of one service are enough: each kind of answer is the same for all."""
    only = {"--include-path-regex": "^/profiles/", "--phases": "coverage", "--max-examples": "2"}
    fuzz(f"{local_cluster.url}/openapi.json", token, tmp_path, only)


def fuzz(url: str, token: str, tmp_path: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Send requests that are made from a document; what is answered must be in it."""
    options = {
        "--header": f"Authorization: Bearer {token}",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": str(EXAMPLES),
        "--request-timeout": str(ANSWER_SECONDS),
        "--max-response-time": str(ANSWER_SECONDS),
        "--seed": SEED,
        "--checks": CHECKS,
        "--exclude-checks": EXCLUDED_CHECK,
        "--generation-database": "none",
        "--report": "json",
        "--report-json-path": str(tmp_path / "report.json"),
        **more,
    }
    arguments = [part for option in options.items() for part in option]
    command = (BIN / "schemathesis", "run", url, "--no-color", "--continue-on-failure")
    done = run(*command, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    assert json.loads((tmp_path / "report.json").read_text())


def test_every_operation_says_what_it_takes_and_answers(local_cluster: LocalCluster) -> None:
    """Errors have a schema, bodies have real examples, and nobody has to guess what an operation is for."""
    for service in ("auth", "profile"):
        document = httpx.get(f"{local_cluster.urls[service]}/openapi.json", trust_env=False, verify=NO_TLS).json()
        text = json.dumps(document)
        assert "HTTPValidationError" not in text
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                where = f"{method} {path}"
                assert operation.get("summary"), where
                assert "503" in operation["responses"], where
                for status, response in operation["responses"].items():
                    problem = path.startswith("/oauth/") and status in {"400", "401"}
                    if int(status) >= 400 and not problem:
                        assert list(response["content"]) == ["application/problem+json"], (where, status)
