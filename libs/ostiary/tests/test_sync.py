"""The verifier for code without an event loop."""

import asyncio

import pytest
from jwks_server import JwksServer, reset, response

from ostiary import SyncVerifier, VerifierConfig
from ostiary.testing import Issuer

pytestmark = [pytest.mark.enable_socket, pytest.mark.usefixtures("fast_refresh")]


class TestSynchronousFace:
    async def test_threads_verify_while_a_thread_keeps_the_keys(self, issuer: Issuer, server: JwksServer) -> None:
        server.answer(response(issuer.jwks()))

        def work() -> str:
            config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, jwks_url=f"{server.url}/jwks")
            with SyncVerifier(config) as verifier:
                assert verifier.ready
                return verifier.verify(issuer.token(subject="u1")).subject

        assert await asyncio.to_thread(work) == "u1"

    async def test_it_starts_and_stops_without_an_issuer_too(self, issuer: Issuer, server: JwksServer) -> None:
        server.respond = reset

        def work() -> bool:
            config = VerifierConfig(issuer=issuer.issuer, audience=issuer.audience, jwks_url=f"{server.url}/jwks")
            verifier = SyncVerifier(config)
            verifier.close()
            with SyncVerifier(config) as verifier:
                return verifier.ready

        assert not await asyncio.to_thread(work)
