"""Limits on the number of connections from an address."""

from ipaddress import ip_network

from harness import (
    RecordingUpstream,
)
from route_files import open_gateway

from ostiary.testing import Issuer
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.proxy.connection_manager import ConnectionManager
from ostiary_gateway.proxy.downstream import ClientConnection


async def test_an_ipv6_network_has_the_connections_of_one_address(issuer: Issuer, upstream: RecordingUpstream) -> None:
    async with open_gateway(
        issuer, upstream, "name: a, match: {path: /a, methods: [GET]}, upstream: up, access: public"
    ) as it:
        manager = it.gateway._manager = ConnectionManager(2, TrustedProxies([ip_network("2001:db8:0:9::/64")]))

        def add(peer: str) -> ClientConnection:
            connection = it.gateway.protocol(server_state=None, app_state={})
            assert isinstance(connection, ClientConnection)
            connection.peer = peer
            told.append(manager.add(connection))
            return connection

        told: list[bool] = []
        first, *_ = [add(f"2001:db8::{number}") for number in (1, 2, 3)]
        add("2001:db8:0:1::1")
        assert told == [True, True, False, True]
        for number in (1, 2, 3):
            add(f"2001:db8:0:9::{number}")
        assert told[4:] == [True, True, True]
        manager.remove(first)
        add("2001:db8::4")
        assert told[-1] is False
        for connection in list(manager.connections):
            manager.remove(connection)
        add("2001:db8::4")
        assert told[-1] is True
