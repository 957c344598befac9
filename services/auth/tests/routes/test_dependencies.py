"""The source address of a request."""

from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
from fastapi import Request
from serving import serving
from throttling import HOME, block
from users import ADA, EMAIL, bearer

from ostiary import LocalKeys, Verifier, VerifierConfig
from ostiary.fastapi import Auth
from ostiary_auth.app import create_app
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.attempts import (
    login_keys,
)
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.services import Services, ServiceSecrets
from ostiary_auth.storage.store import AuthStore
from ostiary_auth.system_clock import SystemClock
from ostiary_chassis.proxies import TrustedProxies


class TestSource:
    """Where a request came from: a proxy is believed if we trust it, and nobody else."""

    def source(self, trusted: str, peer: str, *forwarded: str) -> str | None:
        verifier = Verifier(VerifierConfig(issuer="http://localhost:8080", audience="ostiary", key_source=LocalKeys()))
        networks = [ip_network(network) for network in trusted.split(",") if network]
        headers = [(b"x-forwarded-for", field.encode()) for field in forwarded]
        state = {"request_id": "r"}
        scope: dict[str, Any] = {"type": "http", "headers": headers, "client": (peer, 40000), "state": state}
        return (
            Dependencies(Auth(verifier), cast("AuthStore", None), TrustedProxies(networks), SystemClock())
            .context(Request(scope))
            .source
        )

    @pytest.mark.parametrize(
        ("trusted", "peer", "forwarded", "source"),
        [
            ("", "192.0.2.7", ["203.0.113.5"], "192.0.2.7"),
            ("10.0.0.0/8", "192.0.2.7", ["203.0.113.5"], "192.0.2.7"),
            ("10.0.0.0/8", "10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", [""], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["1.1.1.1, 203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["1.1.1.1", "203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["10.0.0.9, 203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5,10.0.0.2,\t10.0.0.3 "], "203.0.113.5"),
            ("10.0.0.0/8,192.0.2.0/24", "192.0.2.7", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, garbage, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, 10.0.0.2:80"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
            ("10.0.0.0/8", "10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5:"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5:http"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5,"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["x" * 5000], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["010.0.0.9"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["203.0.113.5, ::ffff:10.0.0.2"], "203.0.113.5"),
            ("10.0.0.0/8", "10.0.0.1", ["2001:DB8:0:0::5"], "2001:db8::5"),
            ("2001:db8::/32", "2001:db8::1", ["203.0.113.5"], "203.0.113.5"),
            ("::/0", "10.0.0.1", ["203.0.113.5"], "10.0.0.1"),
            ("10.0.0.0/8", "testclient", ["203.0.113.5"], None),
        ],
    )
    def test_it_is_the_last_address_that_is_not_a_trusted_proxys(
        self, trusted: str, peer: str, forwarded: list[str], source: str | None
    ) -> None:
        assert self.source(trusted, peer, *forwarded) == source

    def test_an_address_fits_where_it_is_stored(self) -> None:
        source = self.source("10.0.0.0/8", "10.0.0.1", "fe80::1%" + "x" * 100)
        assert source is not None
        assert len(source) <= 45

    async def test_a_trusted_proxys_word_decides_about_the_session_and_the_throttle(
        self, config: AuthConfig, own: ServiceSecrets, services: Services
    ) -> None:
        behind = config.model_copy(update={"trusted_proxies": (ip_network("192.0.2.0/24"),)})
        headers = {"X-Forwarded-For": "1.2.3.4, 203.0.113.5"}
        async with serving(create_app(behind, own)) as client:
            await client.post("/auth/register", json=ADA)
            login = await client.post("/auth/login", json=ADA, headers=headers)
            (session,) = (await client.get("/auth/sessions", headers=bearer(login.json()))).json()["sessions"]
            assert session["address"] == "203.0.113.5"
            client.cookies.clear()
            await block(services, login_keys(EMAIL, "203.0.113.5", None))
            assert (await client.post("/auth/login", json=ADA, headers=headers)).status_code == 429

    async def test_nobody_elses_word_counts(self, client: httpx.AsyncClient, services: Services) -> None:
        await block(services, login_keys(EMAIL, HOME, None))
        for number in range(3):
            headers = {
                "X-Forwarded-For": f"203.0.113.{number}",
                "Forwarded": "for=203.0.113.9",
                "X-Real-IP": "203.0.113.9",
            }
            assert (await client.post("/auth/login", json=ADA, headers=headers)).status_code == 429
