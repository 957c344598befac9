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
from ostiary_chassis.settings import ConfigError, environment, read_secret
from ostiary_chassis.workers import Worker
from ostiary_gateway.access.explain import Question
from ostiary_gateway.access.explain import explain as explain_request
from ostiary_gateway.app import Gateway
from ostiary_gateway.config import GatewayConfig, check_authorities
from ostiary_gateway.openapi import fetch
from ostiary_gateway.openapi.diff import disagreements
from ostiary_gateway.openapi.merge import BadDocument
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.source import RoutesSource
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.runtime import load_routes

# RFC 9110 section 5; RFC 6750 section 2.1.
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def _root() -> None:
    """Ostiary's API gateway. Its settings are environment variables; see the README."""


@cli.command()
def serve() -> None:
    """Serve until SIGTERM. The routes file is read again when it changes, and on SIGHUP."""
    config = GatewayConfig.load(environment())
    logs.configure(config.log_format, "gateway")
    source = RoutesSource(config.routes_file)
    routes = source.load()
    listener = server.bind(config.host, config.port, "gateway")
    # What is wrong with them is said once, and before anything starts.
    config.rate_limit_store_password()
    check_authorities(environment())
    if config.workers == 1:
        _serve(Gateway(config, routes, source), listener)
        return
    # Nobody else has the address; now the workers may have it together.
    listener.close()

    def work(worker: Worker) -> None:
        shared = server.bind(config.host, config.port, "gateway", is_shared=True)
        # As it is now: this may be a worker that is started again long after the first ones.
        source.share(worker.folder)
        _serve(Gateway(config, source.load_or_last(routes), source, worker=worker), shared)

    workers.run(config.workers, work)


def _serve(gateway: Gateway, listener: socket.socket) -> None:
    server.serve(gateway.app, listener, gateway.stop, gateway.protocol)


@cli.command()
def check(file: Annotated[Path, typer.Argument(help="The routes file.")]) -> None:
    """Validate a routes file; exit with 2 and the lines at fault if it cannot be used."""
    routes = load_routes(file, "FILE")
    for name in routes.unused_upstreams:
        typer.echo(f"{file}: upstreams.{name}: no route uses it")
    typer.echo(f"{file}: {len(routes.routes)} routes to {len(routes.upstreams)} upstreams")


@cli.command()
def explain(
    method: Annotated[str, typer.Argument(help="As in GET.")],
    url: Annotated[str, typer.Argument(help="A path, or a URL with a host.")],
    token_file: Annotated[Path | None, typer.Option(help="A file with an access token, which is not shown.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="As in 'Origin: https://app.example'.")] = None,
    client: Annotated[str, typer.Option(help="The address that the connection comes from.")] = "127.0.0.1",
) -> None:
    """Say what the gateway would do with a request: which route, which rules, which upstream, or why not.

    Nothing is sent to an upstream. Exits with 1 if the request would be refused.
    """
    config = GatewayConfig.load(environment())
    routes = load_routes(config.routes_file)
    question = Question(method, _url(url), _headers(header or []), _token(token_file), _address(client))

    async def run() -> tuple[list[str], bool]:
        verifier = Verifier(config.issuer_config(), max_staleness=config.max_staleness)
        proxies = TrustedProxies(config.trusted_proxies)
        async with AsyncExitStack() as stack:
            if question.token is not None:
                await stack.enter_async_context(verifier)
            return explain_request(routes, verifier, proxies, question)

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
            raise ConfigError("--header: must be a name, a colon and a value, as in 'Origin: https://app.example'")
    return fields


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    token = read_secret(file, "--token-file").strip()
    if _TOKEN.match(token) is None:
        raise ConfigError(f"--token-file: there is no access token in {file}, and nothing else")
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
        typer.Option(help="Where a service's OpenAPI document is; by default, each upstream is asked."),
    ] = None,
) -> None:
    """Compare the routes with what the services' OpenAPI documents ask for; exit with 1 where they disagree."""
    config = GatewayConfig.load(environment())
    routes = load_routes(config.routes_file)
    documents = fetch.documents(routes, openapi or [])
    try:
        lines = disagreements(RouteTable(routes.routes), documents)
    except BadDocument as error:
        raise ConfigError(str(error)) from None
    typer.echo("\n".join([*lines, f"{len(lines)} disagreements with {', '.join(sorted(documents))}"]))
    if left := sorted(routes.upstreams.keys() - documents.keys()):
        typer.echo(f"not compared: {', '.join(left)}")
    sys.exit(1 if lines else 0)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of routes files, for editors."""
    typer.echo(json.dumps(RoutesFile.model_json_schema(), indent=2))
