"""`ostiary-auth keys`."""

from typing import Annotated

import typer

from ostiary_auth.commands._run import AsJson, fail, run, show
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.keys.model import StoredKey
from ostiary_auth.domain.keys.vault import UnsealError
from ostiary_auth.routes.keys.models import KeyResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="Manage signing keys.")


@cli.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the signing keys, the newest first."""

    async def work(services: Services, _context: Context) -> list[StoredKey]:
        return await services.keys.stored()

    show(run(work), as_json, _row, KeyResponse.of)


@cli.command()
def rotate() -> None:
    """Start signing with the next key. Rejected until the key has been published long enough for every verifier."""

    async def work(services: Services, context: Context) -> None:
        await services.keys.rotate(context)

    run(work)


# A kid may start with '-'.
@cli.command(context_settings={"ignore_unknown_options": True})
def revoke(kid: Annotated[str, typer.Argument(help="The key id, as shown by `keys list`.")]) -> None:
    """Delete a key and revoke every token that it has signed, for example because it leaked."""

    async def work(services: Services, context: Context) -> None:
        await services.keys.revoke(context, kid)

    run(work)


@cli.command()
def rewrap() -> None:
    """Encrypt all keys and secrets under the first key-encryption key; then remove the others from the file."""

    async def work(services: Services, context: Context) -> int:
        return await services.keys.rewrap(context)

    try:
        typer.echo(f"{run(work)} keys and secrets encrypted")
    except UnsealError:
        fail("no key-encryption key in the file decrypts the keys in the database")


def _row(key: StoredKey) -> dict[str, object]:
    return {"kid": key.kid, "state": key.state, "since": key.since, "created_at": key.created_at}
