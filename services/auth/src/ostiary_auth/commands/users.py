"""`ostiary-auth users`."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from ostiary_auth.commands._run import AsJson, fail, pages_of, run, show_pages
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.accounts.service import Accounts
from ostiary_auth.domain.context import Context
from ostiary_auth.routes.accounts.models import ExportResponse, UserResponse
from ostiary_auth.services import Services

T = TypeVar("T")

cli = typer.Typer(no_args_is_help=True, help="Manage users.")

UserName = Annotated[str, typer.Argument(metavar="USER", help="The user's id or e-mail address.")]


@cli.command()
def create(
    email: str,
    role: Annotated[list[str], typer.Option(help="A role; repeatable.")] = ["user"],  # noqa: B006 - typer copies it
    name: Annotated[str | None, typer.Option(help="The display name.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Create an account, such as the first administrator: `users create ada@example.com --role user --role admin`."""
    password = _read_password(from_stdin=password_stdin)
    user = run(lambda services, context: services.accounts.create(email, password, name, tuple(role), context))
    typer.echo(user.id)


@cli.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all users."""

    async def work(services: Services, _context: Context) -> None:
        await show_pages(pages_of(services.accounts.page, lambda user: user.id), as_json, _row, UserResponse.of)

    run(work)


@cli.command()
def disable(user: UserName) -> None:
    """Disable a user and end their sessions."""
    revoked = _on_user(user, lambda accounts, user_id, context: accounts.disable(user_id, context))
    typer.echo(f"disabled; {len(revoked)} sessions ended")


@cli.command()
def enable(user: UserName) -> None:
    """Enable a disabled user."""
    _on_user(user, lambda accounts, user_id, context: accounts.enable(user_id, context))


@cli.command()
def roles(
    user: UserName,
    role: Annotated[list[str] | None, typer.Argument(help="The new roles.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all roles.")] = False,
) -> None:
    """Replace a user's roles."""
    if bool(role) is none:
        fail("give at least one role, or --none to remove all")
    _on_user(user, lambda accounts, user_id, context: accounts.set_roles(user_id, tuple(role or ()), context))


@cli.command()
def end_sessions(user: UserName) -> None:
    """End all sessions of a user."""
    revoked = _on_user(user, lambda accounts, user_id, context: accounts.end_sessions(user_id, context))
    typer.echo(f"{len(revoked)} sessions ended")


@cli.command()
def export(user: UserName) -> None:
    """Print everything stored about a user, as JSON."""
    found = _on_user(user, lambda accounts, user_id, context: accounts.export(user_id, context))
    # In ASCII, so that values from users cannot control the terminal.
    typer.echo(json.dumps(ExportResponse.of(found).model_dump(mode="json"), indent=2))


@cli.command()
def delete(
    user: UserName, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Delete a user and all their personal data. This cannot be undone."""
    if not yes:
        typer.confirm(f"Delete {user}?", abort=True)

    async def delete_all(accounts: Accounts, user_id: UUID, context: Context) -> None:
        await accounts.delete(user_id, context)
        await accounts.erasure.run()

    _on_user(user, delete_all)


def _on_user(user: str, work: Callable[[Accounts, UUID, Context], Awaitable[T]]) -> T:
    """Do some work on the account with this id or e-mail address."""

    async def find_and_work(services: Services, context: Context) -> T:
        try:
            user_id = UUID(user)
        except ValueError:
            user_id = (await services.accounts.find(user)).id
        return await work(services.accounts, user_id, context)

    return run(find_and_work)


def _row(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "roles": user.roles,
        "created_at": user.created_at,
        "disabled_at": user.disabled_at,
    }


def _read_password(*, from_stdin: bool) -> str:
    """Read a new password; never from the command line, which other users can see."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        fail("no terminal to read the password from; use --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password
