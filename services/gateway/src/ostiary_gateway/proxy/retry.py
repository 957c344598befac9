"""Whether a request may be sent again."""

from ostiary_gateway.http1.methods import IDEMPOTENT, SAFE
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.policies import Retries
from ostiary_gateway.upstream.cluster import Cluster
from ostiary_gateway.upstream.connection import Failure


def may_retry(
    request: Request, config: Retries | None, retries: int, failure: Failure | None, cluster: Cluster
) -> bool:
    """Return whether a request without content may be sent again after so many retries.

    `failure` is None if there was a response with a status that the route retries.
    """
    if request.method not in IDEMPOTENT:
        return False
    # An upstream may close an idle connection at any time; that is no sign of trouble, and costs no budget.
    if failure is Failure.STALE and retries == 0 and request.method in SAFE:
        return True
    return config is not None and retries < config.attempts and cluster.may_retry()
