"""`ostiary-auth revocations`."""

import typer

from ostiary_auth.commands._run import AsJson, run, show
from ostiary_auth.domain.context import Context
from ostiary_auth.domain.revocation.model import RegisteredVerifier
from ostiary_auth.routes.revocation.models import VerifierResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="Manage the revocation log and its verifiers.")


@cli.command()
def verifiers(as_json: AsJson = False) -> None:
    """List the verifiers that may be accepting tokens. APPLIED may be older than what a verifier has applied."""

    async def work(services: Services, context: Context) -> list[RegisteredVerifier]:
        async with services.store.read() as transaction:
            return await transaction.verifiers.live(context.now)

    show(run(work), as_json, _row, VerifierResponse.of)


@cli.command("revoke-all")
def revoke_all() -> None:
    """Revoke every access token. Sessions continue, and clients refresh."""
    run(lambda services, context: services.revocations.revoke_all(services.store, context))


@cli.command()
def restart() -> None:
    """Restart the log after restoring a backup; then restart the auth service, gateways and services.

    Every access token is revoked, because revocations since the backup are lost.
    """
    run(lambda services, context: services.revocations.restart(services.store, context))


def _row(verifier: RegisteredVerifier) -> dict[str, object]:
    return {
        "id": verifier.id,
        "applied": verifier.acknowledged,
        "keys": verifier.keys,
        "lease": f"{verifier.lease_ms / 1000:g} s",
        "live_until": verifier.live_until,
    }
