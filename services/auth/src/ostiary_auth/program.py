"""What the command `ostiary-auth` can do."""

import asyncio

import typer

from ostiary_auth.app import create_app
from ostiary_auth.commands import audit, clients, keys, revocations, users
from ostiary_auth.commands.backup import backup
from ostiary_auth.commands.restore import restore
from ostiary_auth.config import AuthConfig
from ostiary_auth.startup import prepare
from ostiary_chassis import logs, server
from ostiary_chassis.server import Hooks
from ostiary_chassis.settings import environment

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(users.cli, name="users")
cli.add_typer(clients.cli, name="clients")
cli.add_typer(keys.cli, name="keys")
cli.add_typer(revocations.cli, name="revocations")
cli.add_typer(audit.cli, name="audit")
cli.command()(backup)
cli.command()(restore)


@cli.callback()
def _root() -> None:
    """Ostiary's auth service. Environment variables configure it; see docs/reference/settings.md."""


@cli.command()
def serve() -> None:
    """Prepare the database and serve until SIGTERM."""
    config = AuthConfig.load(environment())
    logs.configure(config.log_format, "auth")
    listener = server.bind(config.host, config.port, "auth")
    app = create_app(config, asyncio.run(prepare(config)))
    server.serve(app, listener, config.drain, Hooks(on_stop=app.state.on_stop))
