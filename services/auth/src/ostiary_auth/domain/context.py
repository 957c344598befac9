"""The context of an operation: who requested it, when, and from where."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

#: Actors other than users and clients: unauthenticated callers, the command line, the service itself.
ANONYMOUS = "anonymous"
OPERATOR = "operator"
SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Context:
    """What every operation is given. `source` is the network address of the request, `request_id` its name in logs."""

    now: datetime
    actor: str = ANONYMOUS
    source: str | None = None
    user_agent: str | None = None
    request_id: str | None = None

    def by(self, actor: str) -> "Context":
        """Return the context for somebody who has been authenticated meanwhile."""
        return replace(self, actor=actor)

    def after(self, seconds: float) -> "Context":
        """Return the context after a wait, for a decision that was delayed by a queue or a lock.

        Only whole seconds count.
        """
        waited = int(seconds)
        return replace(self, now=self.now + timedelta(seconds=waited)) if waited else self


def user_actor(user_id: UUID) -> str:
    """Return a user's name as actor or subject in the audit log."""
    return f"user:{user_id}"


def client_actor(client_id: str) -> str:
    """Return a client's name as actor or subject in the audit log."""
    return f"client:{client_id}"
