"""`ostiary-auth clients`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ostiary_auth.commands._run import AsJson, fail, pages_of, run, show_pages
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.oauth.model import Client
from ostiary_auth.routes.oauth.models import ClientResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="Manage OAuth clients.")

ClientId = Annotated[str, typer.Argument(metavar="CLIENT", help="The client's id.")]


@cli.command()
def create(
    client_id: ClientId,
    *,
    name: Annotated[str | None, typer.Option(help="Its display name; the id by default.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="An allowed scope; repeatable.")] = None,
    audience: Annotated[list[str] | None, typer.Option(help="An allowed audience; repeatable.")] = None,
    grant: Annotated[list[str], typer.Option(help="An allowed grant; repeatable.")] = ["client_credentials"],  # noqa: B006 - typer copies it
    jwks: Annotated[Path | None, typer.Option(help="A JWKS file with its public keys; then it has no secret.")] = None,
) -> None:
    """Register a client and print its secret, which is not shown again."""
    keys = _read_jwks(jwks) if jwks else None

    async def work(services: Services, context: Context) -> str | None:
        client = Client(
            id=client_id,
            name=name or client_id,
            grants=tuple(grant),
            scopes=tuple(scope or ()),
            audiences=tuple(audience or (services.config.audience,)),
            jwks=keys,
        )
        _client, secret = await services.clients.create(client, context)
        return secret

    secret = run(work)
    if secret is not None:
        typer.echo(secret)


@cli.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all clients."""

    async def work(services: Services, _context: Context) -> None:
        await show_pages(pages_of(services.clients.page, lambda client: client.id), as_json, _row, ClientResponse.of)

    run(work)


@cli.command()
def disable(client: ClientId) -> None:
    """Disable a client and revoke its tokens."""
    run(lambda services, context: services.clients.disable(client, context))


@cli.command()
def enable(client: ClientId) -> None:
    """Enable a disabled client."""
    run(lambda services, context: services.clients.enable(client, context))


@cli.command()
def rotate_secret(client: ClientId) -> None:
    """Print a new secret for a client; the previous one stays valid for a day."""
    typer.echo(run(lambda services, context: services.clients.rotate_secret(client, context)))


@cli.command()
def delete(client: ClientId) -> None:
    """Delete a client and revoke its tokens."""
    run(lambda services, context: services.clients.delete(client, context))


def _read_jwks(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except ValueError:
        fail(f"{path} is not JSON")
    if not isinstance(document, dict):
        fail(f"{path} is not a JWKS")
    return document


def _row(client: Client) -> dict[str, object]:
    return {
        "id": client.id,
        "name": client.name,
        "grants": client.grants,
        "scopes": client.scopes,
        "audiences": client.audiences,
        "authentication": client.authentication,
        "disabled_at": client.disabled_at,
    }
