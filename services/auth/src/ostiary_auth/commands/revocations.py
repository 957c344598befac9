"""`ostiary-auth revocations`."""

from typing import Annotated

import typer

from ostiary_auth.commands._run import AsJson, run, show
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.model import RegisteredVerifier, each_once
from ostiary_auth.routes.revocation.models import VerifierResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="Manage the revocation log and its verifiers.")


@cli.command()
def verifiers(as_json: AsJson = False) -> None:
    """List the verifiers that may be accepting tokens. APPLIED may be older than what a verifier has applied."""

    async def work(services: Services, context: Context) -> list[RegisteredVerifier]:
        async with services.store.read() as transaction:
            return each_once(await transaction.verifiers.live(context.now))

    show(run(work), as_json, _row, VerifierResponse.of)


@cli.command("revoke-all")
def revoke_all() -> None:
    """Revoke every access token. Sessions continue, and clients refresh."""
    run(lambda services, context: services.revocations.revoke_all(services.store, context))


@cli.command()
def restart(
    keep_sessions: Annotated[
        bool, typer.Option("--keep-sessions", help="End no session: those that were ended since the backup go on.")
    ] = False,
) -> None:
    """Begin a new log, because revocations were lost: after the database was restored from a backup by other means.

    Revokes every access token, ends all sessions, and replaces the signing keys. Nothing has to be restarted.
    """
    ended = run(lambda services, context: services.recovery.restart(context, keep_sessions=keep_sessions))
    typer.echo(f"{ended} sessions ended")


def _row(verifier: RegisteredVerifier) -> dict[str, object]:
    return {
        "id": verifier.id,
        "applied": verifier.acknowledged,
        "keys": verifier.keys,
        "lease": f"{verifier.lease_ms / 1000:g} s",
        "live_until": verifier.live_until,
    }
