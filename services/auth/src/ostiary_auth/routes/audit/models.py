"""Response bodies about the audit log."""

from datetime import datetime

from pydantic import BaseModel, Field

from ostiary_auth.domain.audit.model import AuditEntry, AuditReport


class AuditEntryResponse(BaseModel):
    """An entry of the audit log. `personal` is null once it has been erased."""

    number: int
    at: datetime
    event: str = Field(examples=["session.ended"])
    actor: str
    subject: str | None
    facts: dict[str, str | int | list[str]]
    personal: dict[str, str] | None
    mac: str

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryResponse":
        # The salt only protects the digest from being guessed.
        personal = {name: value for name, value in (entry.personal or {}).items() if name != "salt"}
        return cls(
            number=entry.number,
            at=entry.at,
            event=entry.event,
            actor=entry.actor,
            subject=entry.subject,
            facts=dict(entry.facts),
            personal=personal or None,
            mac=entry.mac.hex(),
        )


class AuditResponse(BaseModel):
    """A page of the audit log; get the next one with `after` = `next`."""

    entries: list[AuditEntryResponse]
    next: int | None


class AuditReportResponse(BaseModel):
    """Whether the audit log is intact. `broken_at` is the number of the first entry that breaks the chain.

    If it is not `complete`, that is known up to entry `entries`, and the next request goes on from there.
    """

    intact: bool
    complete: bool
    entries: int
    broken_at: int | None
    head: str

    @classmethod
    def of(cls, report: AuditReport) -> "AuditReportResponse":
        return cls(
            intact=report.broken_at is None,
            complete=report.is_complete,
            entries=report.entries,
            broken_at=report.broken_at,
            head=report.head.hex(),
        )
