"""What the command `ostiary-profile` can do."""

import asyncio

import typer

from ostiary_chassis import logs, server
from ostiary_chassis.settings import environment
from ostiary_profile.app import create_app, prepare
from ostiary_profile.config import ProfileConfig

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def _root() -> None:
    """Ostiary's profile service. It is configured by environment variables; see the README."""


@cli.command()
def serve() -> None:
    """Migrate the database, and serve until SIGTERM or SIGINT."""
    config = ProfileConfig.load(environment())
    logs.configure(config.log_format, "profile")
    listener = server.bind(config.host, config.port, "profile")
    asyncio.run(prepare(config))
    server.serve(create_app(config), listener, config.drain)
