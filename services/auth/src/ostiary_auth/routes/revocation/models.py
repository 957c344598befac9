"""Response bodies about verifiers and revocations."""

from datetime import datetime

from pydantic import BaseModel, Field

from ostiary_auth.routes.models import View
from ostiary_auth.routes.sessions.models import EndedResponse


class InForceResponse(EndedResponse):
    """How far a revocation is in force.

    `cursor` is its number in the revocation log, `acknowledged_by` the number of verifiers that have applied it,
    `complete` whether no verifier accepts the tokens any longer, and `in_force_after_ms` how long that took.
    """

    cursor: int
    acknowledged_by: int
    in_force_after_ms: float | None
    complete: bool


class VerifierResponse(View):
    """A verifier that may be accepting tokens. `acknowledged` may be older than what it has applied."""

    id: str = Field(examples=["gateway-5f1c0a94d1b2c3e4"])
    acknowledged: int
    keys: str
    lease_ms: int
    live_until: datetime


class VerifiersResponse(BaseModel):
    """The verifiers that may be accepting tokens."""

    verifiers: list[VerifierResponse]
