"""What the gateway would do with a request, in words. The same code decides as when it serves."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from ostiary import Verifier
from ostiary.errors import OstiaryError
from ostiary.http import Problem, problem_for
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway import http1
from ostiary_gateway.gate import Arrival, Gate
from ostiary_gateway.guards import Guards
from ostiary_gateway.http1 import BadMessage
from ostiary_gateway.routes_file import Requirements, Route, RoutesFile
from ostiary_gateway.routing import RouteTable


def explain(
    routes: RoutesFile, verifier: Verifier, method: str, url: str, *, headers: Sequence[str], token: str | None
) -> tuple[list[str], bool]:
    """Return what would be done, line by line, and whether the request would go on. The token is not in it."""
    parts = urlsplit(url)
    # As it is: a path that is tidied up would be another one.
    target = url.removeprefix(f"{parts.scheme}://{parts.netloc}") if parts.netloc else url
    lines = [f"request     {method} {target}"]
    fields = [f"Host: {parts.netloc or 'localhost'}", *headers]
    if token is not None:
        fields.append(f"Authorization: Bearer {token}")
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""])
    try:
        request = http1.parse_request(head.encode("utf-8", "surrogateescape"))
    except BadMessage as error:
        return [*lines, f"answer      400: not valid HTTP/1.1 ({error})"], False
    gate = Gate(RouteTable(routes.routes), Guards(routes), verifier, TrustedProxies())
    arrival = Arrival(request, "127.0.0.1", b"http", b"explained")
    problem: Problem | None = None
    try:
        gate.locate(arrival)
        if arrival.is_own:
            return [*lines, "answer      by the gateway itself"], True
        if gate.preflight(arrival) is not None:
            return [*lines, "answer      204: a browser's preflight, for the route below", *_about(arrival.route)], True
        gate.admit(arrival)
    except ProblemError as error:
        problem = error.problem
    except OstiaryError as error:
        problem = problem_for(error)
    lines += _about(arrival.route)
    if arrival.token is not None:
        held = ", ".join(sorted(arrival.token.scopes)) or "no scopes"
        roles = ", ".join(sorted(arrival.token.roles)) or "no roles"
        lines.append(f"token       of {arrival.token.subject}, client {arrival.token.client_id}: {held}; {roles}")
    if problem is not None:
        return [*lines, f"answer      {problem.status} {problem.code}: {problem.detail}"], False
    assert arrival.route is not None  # noqa: S101 - admitted
    for name in arrival.route.upstreams:
        addresses = ", ".join(routes.upstreams[name].addresses)
        lines.append(f"goes to     {name} ({addresses}) as {(arrival.rewritten or arrival.target).decode()}")
    return lines, True


def _about(route: Route | None) -> list[str]:
    if route is None:
        return ["route       none"]
    return [
        f"route       {route.name}: {', '.join(sorted(route.match.methods))} {route.match.path}",
        f"access      {_access(route)}",
    ]


def _access(route: Route) -> str:
    if not isinstance(route.access, Requirements):
        return route.access
    parts = [f"scope {scope}" for scope in sorted(route.access.scopes)]
    parts += [f"role {role}" for role in sorted(route.access.roles)]
    parts += [f"claim {name} {condition}" for name, condition in sorted(route.access.claims.items())]
    return " and ".join(parts)
