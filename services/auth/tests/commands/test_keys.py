"""`ostiary-auth keys`."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from command_line import CommandLine

from ostiary_auth.domain.keys.model import KeyState
from ostiary_auth.domain.keys.vault import KEK_BYTES
from ostiary_auth.kek_file import open_vault
from ostiary_auth.services import Services
from ostiary_auth.storage.keys.tables import signing_keys


class TestKeys:
    def states(self, line: CommandLine) -> dict[str, str]:
        return {key["state"]: key["kid"] for key in line.rows("keys", "list")}

    def test_keys_are_listed(self, line: CommandLine) -> None:
        states = self.states(line)
        assert states.keys() == {"signing", "next"}
        heading, *rows = line.prints("keys", "list").splitlines()
        assert heading.split() == ["KID", "STATE", "SINCE", "CREATED", "AT"]
        assert {row.split()[1]: row.split()[0] for row in rows} == states

    def test_the_next_key_is_made_to_sign(self, line: CommandLine) -> None:
        before = self.states(line)
        line.execute(signing_keys.update().values(since=datetime.now(UTC)))
        assert "has not been published long enough" in line.refuses("keys", "rotate")
        line.execute(signing_keys.update().values(since=datetime.now(UTC) - timedelta(days=1)))
        assert line.prints("keys", "rotate") == ""
        after = self.states(line)
        assert (after["signing"], after["retired"]) == (before["next"], before["signing"])

    def test_an_unknown_key_is_refused(self, line: CommandLine) -> None:
        for kid in ("unknown", "-unknown"):
            assert line.refuses("keys", "revoke", kid) == "Signing key not found."

    def test_a_key_is_revoked_whatever_its_kid_begins_with(self, line: CommandLine) -> None:
        kids = ["-Nq0xk1WZ3Yx0b0gTq6cJ1m8Qk5m2v7s9d4f6h8j0k2", "--help-Z3Yx0b0gTq6cJ1m8Qk5m2v7s9d4f6"]

        async def add(services: Services) -> None:
            vault = open_vault(services.config)
            key = (await services.keys.stored())[0]
            retired = replace(key, state=KeyState.RETIRED, since=datetime.now(UTC))
            async with services.store.write() as transaction:
                for kid in kids:
                    sealed = vault.seal(vault.open(key.sealed_private_key, key.kid), kid)
                    await transaction.keys.add(replace(retired, kid=kid, sealed_private_key=sealed))

        before = self.states(line)
        line.do(add)
        assert {key["kid"] for key in line.rows("keys", "list") if key["state"] == "retired"} == set(kids)
        for kid in kids:
            assert line.prints("keys", "revoke", kid) == ""
        assert self.states(line) == before

    def test_all_is_sealed_anew_under_a_new_key(self, line: CommandLine) -> None:
        before, path = self.states(line), line.config.kek_path
        old, new = path.read_bytes(), base64.b64encode(bytes([1]) * KEK_BYTES) + b"\n"
        path.write_bytes(new + old)
        assert line.prints("keys", "rewrap") == "4 keys and secrets encrypted\n"
        path.write_bytes(new)
        assert self.states(line) == before
