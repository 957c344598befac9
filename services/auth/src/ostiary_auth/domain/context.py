"""Who does something, when, and from where: what every operation needs to decide, and the journal to record."""

import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

#: Actors that are neither a user nor a client: nobody known yet, whoever has the command line, the service itself.
ANONYMOUS = "anonymous"
OPERATOR = "operator"
SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances of one operation. `source` is the network address it came from."""

    now: datetime
    actor: str = ANONYMOUS
    source: str | None = None
    user_agent: str | None = None
    #: The numbers of the revocations that came of it.
    revocations: list[int] = field(default_factory=list, compare=False)

    def after_waiting(self, since: float) -> "Context":
        """Return the circumstances at the end of a wait that began at `since`, on the monotonic clock.

        In whole seconds: a queue or a lock that took long must not make what is decided after it look long ago.
        """
        waited = int(time.monotonic() - since)
        return replace(self, now=self.now + timedelta(seconds=waited)) if waited else self


def user_actor(user_id: UUID) -> str:
    """Return the actor's or the subject's name for a user."""
    return f"user:{user_id}"


def client_actor(client_id: str) -> str:
    """Return the actor's or the subject's name for a client."""
    return f"client:{client_id}"
