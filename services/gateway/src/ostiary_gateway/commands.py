"""The commands of `ostiary-gateway`."""

import asyncio
import json
import re
import socket
import sys
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from ostiary import Verifier
from ostiary_chassis import logs, server, workers
from ostiary_chassis.proxies import TrustedProxies
from ostiary_chassis.server import Hooks
from ostiary_chassis.settings import ConfigError, environment, read_secret
from ostiary_chassis.workers import Worker
from ostiary_gateway.access.explain import HypotheticalRequest
from ostiary_gateway.access.explain import explain as explain_request
from ostiary_gateway.app import Gateway
from ostiary_gateway.config import GatewayConfig, check_ca_file
from ostiary_gateway.openapi.diff import differences
from ostiary_gateway.openapi.fetch import fetch_documents
from ostiary_gateway.openapi.merge import InvalidDocument
from ostiary_gateway.routing.config import RoutesFile, own_paths
from ostiary_gateway.routing.credentials import check_issuer, summary
from ostiary_gateway.routing.source import RoutesSource, load_routes
from ostiary_gateway.routing.table import RouteTable

# RFC 9110 section 5; RFC 6750 section 2.1.
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def _root() -> None:
    """Ostiary's API gateway. Settings are environment variables, listed in docs/reference/settings.md."""


@cli.command()
def serve() -> None:
    """Serve until SIGTERM. The routes file is reloaded when it changes, and on SIGHUP."""
    config = GatewayConfig.load(environment())
    logs.configure(config.log_format, "gateway", log_level=config.log_level)
    source = RoutesSource(config.routes_file, reserved=config.public_operations, issuer=config.issuer)
    routes = source.load()
    listeners = _bind(config)
    # Errors in these are reported once, before anything starts.
    config.rate_limit_store_password()
    check_ca_file(environment())
    if config.workers == 1:
        _serve(config, Gateway(config, routes, source), *listeners)
        return
    # The addresses are free, and the workers share them from now on.
    for listener in listeners:
        listener.close()

    def work(worker: Worker) -> None:
        shared = _bind(config, is_shared=True)
        # The current file: this may be a worker that is restarted long after the first ones.
        source.share(worker.folder)
        gateway = Gateway(config, source.load_or_last(routes), source, worker=worker)
        _serve(config, gateway, *shared, is_worker=True)

    workers.run(config.workers, work)


def _bind(config: GatewayConfig, *, is_shared: bool = False) -> tuple[socket.socket, socket.socket]:
    """Return the sockets of the public port and the admin port. Raises ConfigError."""
    return (
        server.bind(config.host, config.port, "gateway", is_shared=is_shared),
        server.bind(config.admin_host, config.own_admin_port, "gateway_admin", is_shared=is_shared),
    )


def _serve(
    config: GatewayConfig, gateway: Gateway, public: socket.socket, admin: socket.socket, *, is_worker: bool = False
) -> None:
    server.serve(
        gateway.app,
        public,
        config.drain,
        Hooks(gateway.drain, gateway.stop, gateway.runtime.reload),
        admin=admin,
        protocol=gateway.protocol,
        is_worker=is_worker,
    )


@cli.command()
def check(file: Annotated[Path, typer.Argument(help="The routes file.")]) -> None:
    """Validate a routes file. Exits with 2 and an error for each line at fault if it is invalid."""
    routes = load_routes(file, "FILE")
    issuer = GatewayConfig.load(environment()).issuer if routes.browser is not None else ""
    check_issuer(routes, issuer)
    for name in routes.unused_upstreams:
        typer.echo(f"{file}: upstreams.{name}: not used by any route")
    for line in summary(routes, issuer):
        typer.echo(f"{file}: {line}")
    typer.echo(f"{file}: {len(routes.routes)} routes to {len(routes.upstreams)} upstreams")


@cli.command()
def explain(
    method: Annotated[str, typer.Argument(help="HTTP method, such as GET.")],
    url: Annotated[str, typer.Argument(help="Path, or URL with a host.")],
    token_file: Annotated[Path | None, typer.Option(help="File with an access token, which is not shown.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="Header field, such as 'Origin: https://app.example'.")
    ] = None,
    client: Annotated[str, typer.Option(help="Address that the connection comes from.")] = "127.0.0.1",
) -> None:
    """Explain what the gateway does with a request: its route, the rules, its upstream, or why it is rejected.

    Nothing is sent to an upstream. Exits with 1 if the request is rejected.
    """
    config = GatewayConfig.load(environment())
    routes = load_routes(config.routes_file, issuer=config.issuer)
    request = HypotheticalRequest(method, _url(url), _headers(header or []), _token(token_file), _address(client))

    async def run() -> tuple[list[str], bool]:
        verifier = Verifier(config.issuer_config(), max_staleness=config.max_staleness)
        proxies = TrustedProxies(config.trusted_proxies)
        async with AsyncExitStack() as stack:
            if request.has_credentials:
                await stack.enter_async_context(verifier)
            own = own_paths(has_docs=config.docs == "on", operations=config.public_operations)
            return explain_request(routes, verifier, proxies, config.issuer, request, own_paths=own)

    lines, is_allowed = asyncio.run(run())
    typer.echo("\n".join(lines))
    sys.exit(0 if is_allowed else 1)


def _url(text: str) -> str:
    try:
        urlsplit(text)
    except ValueError as error:
        raise ConfigError(f"URL: {error}") from None
    return text


def _headers(fields: list[str]) -> list[str]:
    for field in fields:
        if _FIELD.match(field) is None:
            raise ConfigError("--header: must be a name, a colon and a value, such as 'Origin: https://app.example'")
    return fields


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    token = read_secret(file, "--token-file").strip()
    if _TOKEN.match(token) is None:
        raise ConfigError(f"--token-file: {file} must contain an access token and nothing else")
    return token


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ConfigError("--client: must be an IP address") from None


@cli.command()
def policy(
    openapi: Annotated[
        list[str] | None,
        typer.Option(help="URL of a service's OpenAPI document; by default, it is fetched from each upstream."),
    ] = None,
) -> None:
    """Compare the access rules of routes with the services' OpenAPI documents. Exits with 1 if they differ."""
    config = GatewayConfig.load(environment())
    routes = load_routes(config.routes_file, issuer=config.issuer)
    documents = fetch_documents(routes, openapi or [], urlsplit(config.issuer).netloc)
    try:
        lines = differences(RouteTable(routes.routes), documents)
    except InvalidDocument as error:
        raise ConfigError(str(error)) from None
    compared = f"differences: {len(lines)}; compared: {', '.join(sorted(documents))}"
    typer.echo("\n".join([*summary(routes, config.issuer), *lines, compared]))
    if missing := sorted(name for name, each in routes.upstreams.items() if each.openapi and name not in documents):
        typer.echo(f"not compared: {', '.join(missing)}")
    sys.exit(1 if lines else 0)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of routes files, for editors."""
    typer.echo(json.dumps(RoutesFile.model_json_schema(), indent=2))
