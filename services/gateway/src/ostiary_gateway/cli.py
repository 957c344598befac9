"""The command `ostiary-gateway`."""

from pathlib import Path
from typing import Annotated

import typer

from ostiary_chassis import logs, server
from ostiary_chassis.settings import environment
from ostiary_gateway import routes_file
from ostiary_gateway.app import Gateway
from ostiary_gateway.config import GatewayConfig

_cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@_cli.callback()
def _root() -> None:
    """Ostiary's API gateway. Its settings are environment variables; see the README."""


@_cli.command()
def serve() -> None:
    """Serve until SIGTERM."""
    config = GatewayConfig.load(environment())
    logs.configure(config.log_format, "gateway")
    routes = routes_file.load(config.routes_file, environment())
    listener = server.bind(config.host, config.port, "gateway")
    gateway = Gateway(config, routes)
    server.serve(gateway.app, listener, gateway.stop, gateway.protocol)


@_cli.command()
def check(file: Annotated[Path, typer.Argument(help="The routes file.")]) -> None:
    """Validate a routes file; exit with 2 and the lines at fault if it cannot be used."""
    routes = routes_file.load(file, environment())
    typer.echo(f"{file}: {len(routes.routes)} routes to {len(routes.upstreams)} upstreams")


def main() -> None:
    """Run the command line."""
    server.run("ostiary-gateway", _cli)
