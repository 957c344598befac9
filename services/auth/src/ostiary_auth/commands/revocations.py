"""`ostiary-auth revocations`."""

import typer

from ostiary_auth.commands._run import AsJson, run, show
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.routes.revocation.models import VerifierResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="The revocation log and the verifiers that follow it.")


@cli.command()
def verifiers(as_json: AsJson = False) -> None:
    """List the verifiers that may be accepting tokens. What they have applied is as of their last entry."""

    async def work(services: Services, context: Context) -> list[RegisteredVerifier]:
        async with services.store.read() as transaction:
            return await transaction.verifiers.live(context.now)

    show(run(work), as_json, _row, VerifierResponse.of)


@cli.command("revoke-all")
def revoke_all() -> None:
    """Revoke every access token that there is. Sessions go on: whoever has one refreshes."""

    async def work(services: Services, context: Context) -> None:
        await services.revocations.revoke_all(services.store, context)

    run(work)


@cli.command()
def restart() -> None:
    """Begin the log anew after a backup was restored; then start auth, gateways and services again.

    What was revoked after the backup is not known any more, so every access token is revoked.
    """

    async def work(services: Services, context: Context) -> None:
        await services.revocations.restart(services.store, context)

    run(work)


def _row(verifier: RegisteredVerifier) -> dict[str, object]:
    return {
        "id": verifier.id,
        "applied": verifier.acknowledged,
        "keys": verifier.keys,
        "lease": f"{verifier.lease_ms / 1000:g} s",
        "live_until": verifier.live_until,
    }
