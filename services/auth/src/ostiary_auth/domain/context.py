"""Who does something, when, and from where: what every operation needs to decide, and the journal to record."""

from dataclasses import dataclass, replace
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

    def after(self, seconds: float) -> "Context":
        """Return the context at the end of a wait, for a decision that a queue or a lock has delayed.

        Only whole seconds count.
        """
        waited = int(seconds)
        return replace(self, now=self.now + timedelta(seconds=waited)) if waited else self


def user_actor(user_id: UUID) -> str:
    """Return the actor's or the subject's name for a user."""
    return f"user:{user_id}"


def client_actor(client_id: str) -> str:
    """Return the actor's or the subject's name for a client."""
    return f"client:{client_id}"
