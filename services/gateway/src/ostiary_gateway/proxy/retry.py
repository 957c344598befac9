"""Whether a request may be sent again.

What no upstream has received is not sent again but for the first time, and goes to another endpoint in any case.
"""

from ostiary_gateway.http1.methods import IDEMPOTENT
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.policies import Retries
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.connection import Failure


def may_retry(
    request: Request, config: Retries | None, retries: int, failure: Failure | None, cluster: Cluster, *, others: bool
) -> bool:
    """Return whether a request may be sent again after so many retries.

    `failure` is None if there was a response with a status that the route retries. `others` says whether it would go to
    another endpoint.
    """
    # RFC 9110 section 9.2.2: a proxy must not send others again.
    if request.method not in IDEMPOTENT:
        return False
    # An upstream may close an idle connection at any time; that is no sign of trouble, and costs no budget.
    if failure is Failure.STALE and retries == 0:
        return True
    is_configured = config is not None and retries < config.attempts
    # An endpoint that is restarted may accept a connection and close it unread; another one can answer.
    is_restart = failure is Failure.BROKEN and retries == 0 and others
    return (is_configured or is_restart) and cluster.may_retry()
