"""`ostiary-auth keys`."""

from typing import Annotated

import typer

from ostiary_auth.commands._run import AsJson, fail, run, show
from ostiary_auth.domain.keys.model import StoredKey
from ostiary_auth.domain.keys.vault import UnsealError
from ostiary_auth.routes.keys.models import KeyResponse

cli = typer.Typer(no_args_is_help=True, help="Manage signing keys.")


@cli.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the signing keys, the newest first."""
    show(run(lambda services, _context: services.keys.stored()), as_json, _row, KeyResponse.of)


@cli.command()
def rotate() -> None:
    """Start signing with the next key. Rejected until the key has been published long enough for every verifier."""
    run(lambda services, context: services.keys.rotate(context))


# A kid may start with '-'.
@cli.command(context_settings={"ignore_unknown_options": True})
def revoke(kid: Annotated[str, typer.Argument(help="The key id, as shown by `keys list`.")]) -> None:
    """Delete a key and revoke every token that it has signed, for example because it leaked."""
    run(lambda services, context: services.keys.revoke(context, kid))


@cli.command()
def rewrap() -> None:
    """Encrypt all keys and secrets under the first key-encryption key; then remove the others from the file."""
    try:
        typer.echo(f"{run(lambda services, context: services.keys.rewrap(context))} keys and secrets encrypted")
    except UnsealError:
        fail("no key-encryption key in the file decrypts the keys in the database")


def _row(key: StoredKey) -> dict[str, object]:
    return {"kid": key.kid, "state": key.state, "since": key.since, "created_at": key.created_at}
