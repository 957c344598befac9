"""`ostiary-auth audit`."""

from typing import Annotated

import typer

from ostiary_auth.commands._run import AsJson, fail, run, show
from ostiary_auth.domain.audit.model import AuditEntry, AuditReport
from ostiary_auth.domain.context import Context
from ostiary_auth.routes.audit.models import AuditEntryResponse
from ostiary_auth.services import Services

cli = typer.Typer(no_args_is_help=True, help="Show and verify the audit log.")


#: Beyond the number of any entry, and within the range of databases.
MAX_NUMBER = 2**62
MAX_DIGITS = 30


@cli.command("list")
def list_(
    after: Annotated[int, typer.Option(min=0, max=MAX_NUMBER, help="Show entries after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    subject: Annotated[
        str | None, typer.Option(help="Show entries about a user or client only, as user:ID or client:ID.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List entries, the oldest first."""

    async def work(services: Services, _context: Context) -> list[AuditEntry]:
        async with services.store.read() as transaction:
            return await transaction.audit.entries(after, limit, subject)

    show(run(work), as_json, _row, AuditEntryResponse.of)


@cli.command()
def verify(
    expect: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:MAC", help="An entry that must exist, as printed by an earlier verification."),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Verify all entries again, also those that were verified before.")
    ] = False,
) -> None:
    """Verify the chain of MACs from where the last verification has ended, and print the last entry's number and MAC.

    Store that line elsewhere and pass it to --expect later: otherwise, entries cut off at the end are not detected.
    """
    number, _, mac = (expect or "").partition(":")
    if expect is not None and not (number.isdecimal() and len(number) <= MAX_DIGITS and mac):
        fail("--expect must have the form NUMBER:MAC")

    async def work(services: Services, context: Context) -> tuple[AuditReport, bool]:
        report = await services.audit.verify(services.store, from_start=from_start)
        await services.audit.record_verified(services.store, report, context)
        if expect is None:
            return report, True
        if int(number) > report.entries:
            return report, False
        async with services.store.read() as transaction:
            entries = await transaction.audit.entries(int(number) - 1, 1)
        return report, any(entry.number == int(number) and entry.mac.hex() == mac for entry in entries)

    report, as_expected = run(work)
    if report.broken_at is not None:
        fail(f"the audit log is broken from entry {report.broken_at} on")
    if not as_expected:
        fail(f"the audit log does not contain entry {expect}")
    typer.echo(f"{report.entries}:{report.head.hex()}")


def _row(entry: AuditEntry) -> dict[str, object]:
    personal = entry.personal or {}
    return {
        "number": entry.number,
        "at": entry.at,
        "event": entry.event,
        "actor": entry.actor,
        "subject": entry.subject,
        "source": personal.get("source"),
        "facts": " ".join(f"{name}={value}" for name, value in entry.facts.items()) or None,
    }
