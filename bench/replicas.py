"""A cluster with two of everything, whose networks can be made to misbehave."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import HOST, Process, Service, free_ports, sign_up, usable_cores
from contenders import COMPILED, OwnService, cluster_settings, routes
from links import Link
from postgres import new_database


@dataclass(slots=True)
class Replica:
    """A process that can be ended and started again, and its own way to the auth service."""

    process: Process
    port: int
    link: Link
    _running: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        self._running.enter_context(self.process.running())

    def stop(self) -> None:
        """End it in good order, or take note that it was killed."""
        self._running.close()


@dataclass(frozen=True, slots=True)
class Replicas:
    """The auth service on PostgreSQL, gateways, and a service behind them: two of each, all running."""

    auths: tuple[Replica, Replica]
    gateways: tuple[Replica, Replica]
    services: tuple[Replica, Replica]
    database: Link
    #: For commands of the auth service, which reach the database directly.
    operator: Service
    database_url: str
    emails: list[str]

    @property
    def all(self) -> tuple[Replica, ...]:
        return (*self.auths, *self.gateways, *self.services)

    @property
    def to_auth(self) -> tuple[Link, ...]:
        """The ways of all gateways and services to the auth service."""
        return tuple(each.link for each in (*self.gateways, *self.services))


@contextmanager
def running_replicas(folder: Path, *, token_seconds: int, accounts: int) -> Iterator[Replicas]:
    """Run two of everything. Raises RuntimeError if there is no PostgreSQL."""
    ports = free_ports(4)
    auth_ports, gateway_ports = ports[:2], ports[2:]
    with ExitStack() as stack:
        url = stack.enter_context(new_database(frozenset(usable_cores())))
        database = stack.enter_context(Link(int(url.rpartition(":")[2].partition("/")[0])).running())
        issuer = f"http://localhost:{gateway_ports[0]}"
        settings = cluster_settings(folder, issuer, token_seconds)
        behind = _with_port(url, database.port)
        auths = _pair(
            Replica(Service("auth", folder, port=port, OSTIARY_AUTH_DATABASE_URL=behind, **settings), port, database)
            for port in auth_ports
        )
        links = [stack.enter_context(Link(*auth_ports).running()) for _ in range(4)]
        own = [OwnService(folder, "starlette", issuer=issuer, auth_port=link.port) for link in links[:2]]
        services = _pair(Replica(each, each.port, link) for each, link in zip(own, links[:2], strict=True))
        gateways = _pair(
            Replica(
                Service(
                    "gateway",
                    folder,
                    port=port,
                    PYTHONPATH=str(COMPILED),
                    OSTIARY_AUTH_URL=f"http://{HOST}:{link.port}",
                    **settings,
                ),
                port,
                link,
            )
            for port, link in zip(gateway_ports, links[2:], strict=True)
        )
        # JSON is YAML.
        (folder / "routes.yaml").write_text(json.dumps(_routes(auth_ports, [each.port for each in services])))
        operator = Service("auth", folder, port=auth_ports[0], OSTIARY_AUTH_DATABASE_URL=url, **settings)
        for each in (*auths, *services, *gateways):
            stack.callback(each.stop)
            each.start()
        emails = asyncio.run(sign_up(auth_ports[0], accounts))
        yield Replicas(auths, gateways, services, database, operator, url, emails)


def _routes(auths: list[int], services: list[int]) -> dict[str, Any]:
    document = routes(auths[0], services[0])
    for name, ports in (("auth", auths), ("profile", services)):
        document["upstreams"][name] = {"urls": [f"http://{HOST}:{port}" for port in ports]}
    refresh = {"path": "/auth/refresh", "methods": ["POST"]}
    document["routes"].append({"name": "refresh", "match": refresh, "upstream": "auth", "access": "public"})
    return document


def _with_port(url: str, port: int) -> str:
    """Return a database's URL with another port."""
    server, _, name = url.rpartition("/")
    return f"{server.rpartition(':')[0]}:{port}/{name}"


def _pair(replicas: Iterator[Replica]) -> tuple[Replica, Replica]:
    first, second = replicas
    return first, second
