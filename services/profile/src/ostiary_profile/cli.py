"""The command `ostiary-profile`."""

import asyncio

import typer

from ostiary_chassis import logs, server
from ostiary_chassis.settings import environment
from ostiary_profile.app import create_app, prepare
from ostiary_profile.config import ProfileConfig

_cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@_cli.callback()
def _root() -> None:
    """Ostiary's profile service. It is configured by environment variables; see the README."""


@_cli.command()
def serve() -> None:
    """Migrate the database, and serve until SIGTERM or SIGINT."""
    config = ProfileConfig.load(environment())
    logs.configure(config.log_format, "profile")
    listener = server.bind(config.host, config.port, "profile")
    asyncio.run(prepare(config))
    server.serve(create_app(config), listener, config.drain)


def main() -> None:
    """Run the command line."""
    server.run("ostiary-profile", _cli)
