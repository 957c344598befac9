"""Who does something, when, and from where: what every operation needs to decide, and the journal to record."""

from dataclasses import dataclass
from datetime import datetime
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


def user_actor(user_id: UUID) -> str:
    """Return the actor's or the subject's name for a user."""
    return f"user:{user_id}"


def client_actor(client_id: str) -> str:
    """Return the actor's or the subject's name for a client."""
    return f"client:{client_id}"
