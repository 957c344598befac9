"""`ostiary-auth keys`."""

from typing import Annotated

import typer

from ostiary_auth.commands._run import AsJson, fail, run, show
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.keys.model import StoredKey
from ostiary_auth.domain.keys.vault import UnsealError
from ostiary_auth.routes.keys.models import KeyResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="Signing keys: look at, rotate, revoke, seal anew.")


@cli.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the signing keys, the newest first."""

    async def work(services: Services, _context: Context) -> list[StoredKey]:
        return await services.keys.stored()

    show(run(work), as_json, _row, KeyResponse.of)


@cli.command()
def rotate() -> None:
    """Let the next key sign from now on. Refused until it has been public long enough for every verifier to have it."""

    async def work(services: Services, context: Context) -> None:
        await services.keys.rotate(context)

    run(work)


# A kid may begin with '-'.
@cli.command(context_settings={"ignore_unknown_options": True})
def revoke(kid: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]) -> None:
    """Remove a key at once, and end all that it signed: for a key that somebody else may have."""

    async def work(services: Services, context: Context) -> None:
        await services.keys.revoke(context, kid)

    run(work)


@cli.command()
def rewrap() -> None:
    """Seal all keys and secrets under the first key-encryption key in the file; then the others can go."""

    async def work(services: Services, context: Context) -> int:
        return await services.keys.rewrap(context)

    try:
        typer.echo(f"{run(work)} sealed anew")
    except UnsealError:
        fail("a key in the database cannot be opened with any key-encryption key in the file")


def _row(key: StoredKey) -> dict[str, object]:
    return {"kid": key.kid, "state": key.state, "since": key.since, "created_at": key.created_at}
