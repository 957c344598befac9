"""`GET /feed`: the revocation feed, for clients with the scope `feed:read`.

`ostiary.feed` specifies the protocol. It is internal to this service and verifiers, so the OpenAPI document does not
have it. Thousands of verifiers poll continuously, so it is a plain Starlette route.
"""

import re

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary.feed import MAX_NONCE_LENGTH, MAX_NUMBER, MAX_RECEIPT_LENGTH, MEDIA_TYPE, MIN_NONCE_LENGTH, SCOPE
from ostiary.http import Problem, bearer_token
from ostiary_auth.domain.revocation.feed import RevocationFeed
from ostiary_auth.paths import FEED_PATH
from ostiary_auth.routes.dependencies import Dependencies
from ostiary_auth.services import Services
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.queries import refuse_repeated

#: Maximum milliseconds of a poll's wait and of a lease.
MAX_WAIT_MS = 30_000
MAX_LEASE_MS = 3_600_000

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

_NONCE = re.compile(rf"[A-Za-z0-9_-]{{{MIN_NONCE_LENGTH},{MAX_NONCE_LENGTH}}}\Z")

_PARAMETERS = ("verifier", "epoch", "after", "wait", "lease", "keys", "nonce", "receipt")

_HEADERS = {"Cache-Control": "no-store"}


def feed_routes(services: Services, dependencies: Dependencies) -> list[Route]:
    async def feed(request: Request) -> Response:
        """Answer a poll, at once or when there are changes."""
        arrived_at = services.clock.monotonic()
        client_id = _authorise(dependencies, request)
        query = request.query_params
        refuse_repeated(query, _PARAMETERS)
        after, wait = _number(query, "after", MAX_NUMBER - 1), _number(query, "wait", MAX_WAIT_MS)
        lease = _number(query, "lease", MAX_LEASE_MS) if "lease" in query else None
        keys, nonce = _name(query, "keys"), _nonce(query)
        verifier = _verifier(client_id, query)
        # Registered first, so that calls wait for verifiers that may not have the next revocation.
        acknowledged = _acknowledged(services.feed, query, after)
        await services.verifiers.on_poll(verifier, acknowledged, keys, lease)
        await services.feed.refresh()
        await services.feed.check_receipt(query.get("receipt", "")[:MAX_RECEIPT_LENGTH])
        if acknowledged != (acknowledged := _acknowledged(services.feed, query, after)):
            # The verifier was ahead of this replica.
            await services.verifiers.on_poll(verifier, acknowledged, keys, lease)
        # What the database takes is part of the wait: a slow one delays no answer that would have waited anyway.
        left = arrived_at + wait / 1000 - services.clock.monotonic()
        await services.feed.wait_for_changes(_followed(services.feed, query, after), keys, max(0.0, left))
        answer = await services.feed.signed_answer(_followed(services.feed, query, after), nonce)
        return Response(answer, headers=_HEADERS, media_type=MEDIA_TYPE)

    async def leave(request: Request) -> Response:
        """Remove a verifier that shuts down."""
        client_id = _authorise(dependencies, request)
        refuse_repeated(request.query_params, _PARAMETERS)
        await services.verifiers.remove(_verifier(client_id, request.query_params))
        return Response(status_code=204)

    return [Route(FEED_PATH, feed, methods=["GET"]), Route(FEED_PATH, leave, methods=["DELETE"])]


def _followed(feed: RevocationFeed, query: QueryParams, after: int) -> int:
    """Return after which entry a verifier needs this log; 0 for all of it, if it has followed another log."""
    return after if query.get("epoch") == feed.epoch else 0


def _acknowledged(feed: RevocationFeed, query: QueryParams, after: int) -> int:
    """Return how far a verifier has followed this log; 0 if it is beyond the end."""
    followed = _followed(feed, query, after)
    return followed if followed <= feed.number else 0


def _authorise(dependencies: Dependencies, request: Request) -> str:
    """Require the scope, and return the client. Raises OstiaryError."""
    request.state.routine = True
    # Polls are how verifiers become fresh, so staleness must not reject them.
    token = dependencies.auth.verifier.verify(
        bearer_token(request.headers.getlist("authorization")), max_staleness=None
    )
    token.require(scopes=[SCOPE])
    return token.client_id


def _verifier(client_id: str, query: QueryParams) -> str:
    """Return the id of a verifier, which is its client's by its form: ids of clients contain no colon."""
    return f"{client_id}:{_name(query, 'verifier')}"


def _number(query: QueryParams, name: str, most: int) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):  # noqa: PLR2004 - digits
        raise _invalid(name, f"an integer from 0 to {most}")
    return int(text)


def _name(query: QueryParams, name: str) -> str:
    text = query.get(name, "")
    if _NAME.match(text) is None:
        raise _invalid(name, "1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-'")
    return text


def _nonce(query: QueryParams) -> str:
    text = query.get("nonce", "")
    if _NONCE.match(text) is None:
        wanted = f"{MIN_NONCE_LENGTH} to {MAX_NONCE_LENGTH} characters of A-Z, a-z, 0-9, '_' and '-'"
        raise _invalid("nonce", wanted)
    return text


def _invalid(name: str, wanted: str) -> ProblemError:
    return ProblemError(Problem(422, "invalid_request", f"Invalid parameter '{name}': must be {wanted}."))
