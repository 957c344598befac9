"""Response bodies about verifiers and revocations."""

from datetime import datetime

from pydantic import BaseModel, Field

from ostiary_auth.routes.models import View
from ostiary_auth.routes.sessions.models import EndedResponse


class InForceResponse(EndedResponse):
    """What was revoked, and how far that is in force.

    `cursor` is its place in the revocation log, `acknowledged_by` how many verifiers have applied it, `complete`
    whether none accepts it any more, and `in_force_after_ms` how long that took.
    """

    cursor: int
    acknowledged_by: int
    in_force_after_ms: float | None
    complete: bool


class VerifierResponse(View):
    """A verifier that may be accepting tokens. What it has acknowledged is as of when that was last stored."""

    id: str = Field(examples=["gateway-5f1c0a94d1b2c3e4"])
    acknowledged: int
    keys: str
    lease_ms: int
    live_until: datetime


class VerifiersResponse(BaseModel):
    """Verifiers."""

    verifiers: list[VerifierResponse]
