"""The command `ostiary-auth`."""

import asyncio

import typer

from ostiary_auth.app import create_app
from ostiary_auth.commands import audit, clients, keys, revocations, users
from ostiary_auth.commands.backup import backup
from ostiary_auth.commands.restore import restore
from ostiary_auth.config import AuthConfig
from ostiary_auth.startup import prepare
from ostiary_chassis import logs, server
from ostiary_chassis.settings import environment

_cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_cli.add_typer(users.cli, name="users")
_cli.add_typer(clients.cli, name="clients")
_cli.add_typer(keys.cli, name="keys")
_cli.add_typer(revocations.cli, name="revocations")
_cli.add_typer(audit.cli, name="audit")
_cli.command()(backup)
_cli.command()(restore)


@_cli.callback()
def _root() -> None:
    """Ostiary's auth service. Environment variables configure it; see docs/reference/settings.md."""


@_cli.command()
def serve() -> None:
    """Prepare the database and serve until SIGTERM."""
    config = AuthConfig.load(environment())
    logs.configure(config.log_format, "auth")
    listener = server.bind(config.host, config.port, "auth")
    app = create_app(config, asyncio.run(prepare(config)))
    server.serve(app, listener, config.drain, on_stop=app.state.on_stop)


def main() -> None:
    server.run("ostiary-auth", _cli)
