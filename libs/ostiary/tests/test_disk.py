"""The last good key set on disk: a restart works while the issuer is down."""

import json
import time
from pathlib import Path

import pytest
from jwks_server import JwksServer, reset, response, verifier_of

from ostiary.testing import Issuer

pytestmark = [pytest.mark.enable_socket, pytest.mark.usefixtures("fast_refresh")]


class TestLastGood:
    """The last good keys on disk, for a restart while the issuer is down."""

    async def start(self, issuer: Issuer, server: JwksServer, path: Path) -> bool:
        async with verifier_of(issuer, server, last_good=path) as verifier:
            return verifier.ready

    async def test_a_restart_during_an_outage_works(self, issuer: Issuer, server: JwksServer, tmp_path: Path) -> None:
        path = tmp_path / "keys.json"
        server.answer(response(issuer.jwks()))
        assert await self.start(issuer, server, path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [path]
        server.respond = reset
        assert await self.start(issuer, server, path)
        async with verifier_of(issuer, server, last_good=path) as verifier:
            assert verifier.verify(issuer.token()).issuer == issuer.issuer

    @pytest.mark.parametrize(
        "change",
        [
            {"fetched_at": time.time() - 25 * 3600},
            {"fetched_at": time.time() + 3600},
            {"fetched_at": "now"},
            {"issuer": "https://other.example"},
            {"document": "{}"},
            {"document": 1},
        ],
    )
    async def test_an_old_or_foreign_document_is_not_used(
        self, issuer: Issuer, server: JwksServer, tmp_path: Path, change: dict[str, object]
    ) -> None:
        path = tmp_path / "keys.json"
        stored = {"issuer": issuer.issuer, "fetched_at": time.time(), "document": issuer.jwks().decode()}
        path.write_text(json.dumps({**stored, **change}))
        server.respond = reset
        assert not await self.start(issuer, server, path)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]"])
    async def test_a_broken_file_is_ignored(
        self, issuer: Issuer, server: JwksServer, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "keys.json"
        path.write_bytes(content)
        server.answer(response(issuer.jwks()))
        assert await self.start(issuer, server, path)
        server.respond = reset
        assert await self.start(issuer, server, path)

    async def test_an_unwritable_disk_is_ignored(self, issuer: Issuer, server: JwksServer) -> None:
        server.answer(response(issuer.jwks()))
        assert await self.start(issuer, server, Path("/dev/null/keys.json"))
