"""`ostiary-auth clients`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client_keys import PUBLIC_KEY
from command_line import CommandLine

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.errors import InvalidClient
from ostiary_auth.domain.oauth.model import Credentials
from ostiary_auth.services import Services
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID


class TestClients:
    def authenticates(self, line: CommandLine, secret: str) -> bool:
        async def work(services: Services) -> bool:
            try:
                await services.clients.authenticate(Credentials("reports", secret), Context(datetime.now(UTC)))
            except InvalidClient:
                return False
            return True

        return line.do(work)

    def registered(self, line: CommandLine) -> list[Any]:
        """Return the clients but for the stack's own, which there are from the start."""
        clients = line.rows("clients", "list")
        others = [client for client in clients if client["id"] not in {GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID}]
        assert len(others) == len(clients) - 2
        return others

    def test_a_client_gets_a_secret(self, line: CommandLine) -> None:
        arguments = ("--name", "Nightly", "--scope", "orders:read", "--scope", "orders:write", "--scope", "orders:read")
        secret = line.prints("clients", "create", "reports", *arguments)
        assert self.authenticates(line, secret.strip())
        (client,) = self.registered(line)
        assert datetime.fromisoformat(client.pop("created_at")) <= datetime.now(UTC)
        assert client == {
            "id": "reports",
            "name": "Nightly",
            "grants": ["client_credentials"],
            "scopes": ["orders:read", "orders:write"],
            "audiences": ["ostiary"],
            "authentication": "client_secret",
            "disabled_at": None,
        }
        heading, *own, row = line.prints("clients", "list").splitlines()
        assert heading.split()[:2] == ["ID", "NAME"]
        assert [line.split()[0] for line in own] == [GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID]
        assert row.split()[:2] == ["reports", "Nightly"]
        assert line.refuses("clients", "create", "reports") == "A client with this id already exists."

    def test_a_client_comes_with_public_keys(self, line: CommandLine, tmp_path: Path) -> None:
        file = tmp_path / "jwks.json"
        file.write_text(json.dumps({"keys": [PUBLIC_KEY]}))
        assert line.prints("clients", "create", "reports", "--jwks", str(file)) == ""
        (client,) = self.registered(line)
        assert (client["id"], client["authentication"]) == ("reports", "private_key_jwt")
        assert "has no secret" in line.refuses("clients", "rotate-secret", "reports")

    def test_a_file_without_public_keys_is_refused(self, line: CommandLine, tmp_path: Path) -> None:
        file = tmp_path / "jwks.json"
        create = ("clients", "create", "reports", "--jwks", str(file))
        assert line.refuses(*create) == f"cannot read {file}: No such file or directory"
        for content, refusal in (
            ("", "is not JSON"),
            ("[]", "is not a JWKS"),
            ('{"keys": []}', "1 to 5 keys"),
            (json.dumps({"keys": [{**PUBLIC_KEY, "d": "AA"}]}), "public keys only"),
        ):
            file.write_text(content)
            assert refusal in line.refuses(*create)
        file.write_bytes(b'{"keys": "\xff"}')
        assert "is not JSON" in line.refuses(*create)
        assert self.registered(line) == []

    def test_a_client_that_cannot_be_is_refused(self, line: CommandLine) -> None:
        assert "2 to 64 characters of" in line.refuses("clients", "create", "Reports")
        assert "Unknown grant" in line.refuses("clients", "create", "reports", "--grant", "password")
        assert "characters" in line.refuses("clients", "create", "reports", "--scope", "two words")

    def test_a_clients_name_that_is_too_long_is_refused(self, line: CommandLine) -> None:
        line.refuses("clients", "create", "reports", "--name", "x" * 101)
        assert self.registered(line) == []

    def test_a_secret_is_rotated(self, line: CommandLine) -> None:
        old = line.prints("clients", "create", "reports").strip()
        new = line.prints("clients", "rotate-secret", "reports").strip()
        assert old != new
        assert self.authenticates(line, old)
        assert self.authenticates(line, new)

    def test_a_client_is_disabled_enabled_and_deleted(self, line: CommandLine) -> None:
        secret = line.prints("clients", "create", "reports").strip()
        for command, good in (("disable", False), ("enable", True), ("delete", False)):
            assert line.prints("clients", command, "reports") == ""
            assert self.authenticates(line, secret) is good
        for command in ("disable", "enable", "rotate-secret", "delete"):
            assert line.refuses("clients", command, "reports") == "Client not found."
