"""What the gateway would do with a request, in words. The same code decides as when it serves."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ostiary import VerifiedToken, Verifier
from ostiary.errors import OstiaryError
from ostiary.http import Problem, problem_for
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.access import cors
from ostiary_gateway.access.admission import Admission
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1 import parser
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.config import Condition, Requirements, Route, RoutesFile, claim_of
from ostiary_gateway.routing.overlap import Guards
from ostiary_gateway.routing.table import RouteTable

# Query parameters whose values are nobody's business.
_SECRET = re.compile(r"token|secret|passw|code|key|sig|assertion|jwt|auth|credential|session|state", re.IGNORECASE)
_PARAMETER = re.compile(r"([^&;=]+)=([^&;]*)")


@dataclass(frozen=True, slots=True)
class Question:
    """A request that somebody might send, from the address `client`."""

    method: str
    url: str
    headers: Sequence[str] = ()
    token: str | None = None
    client: str = "127.0.0.1"

    @property
    def target(self) -> str:
        """What the request asks for, as it is: a path that is tidied up would be another one."""
        parts = urlsplit(self.url)
        return (self.url.removeprefix(f"{parts.scheme}://{parts.netloc}") if parts.netloc else self.url) or "/"

    @property
    def head(self) -> bytes:
        """The request's head."""
        fields = list(self.headers)
        if not any(field.lower().startswith("host:") for field in fields):
            fields.insert(0, f"Host: {urlsplit(self.url).netloc or 'localhost'}")
        if self.token is not None:
            fields.append(f"Authorization: Bearer {self.token}")
        lines = [f"{self.method} {self.target} HTTP/1.1", *fields, "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def explain(
    routes: RoutesFile, verifier: Verifier, proxies: TrustedProxies, question: Question
) -> tuple[list[str], bool]:
    """Return what would be done, line by line, and whether the request would go on. No token is in it."""
    lines = [f"request     {question.method} {_shown(question.target)}"]
    try:
        request = parser.parse_request(question.head)
    except BadMessage as error:
        return [*lines, f"answer      400: not valid HTTP/1.1 ({error})"], False
    guards = Guards(routes)
    context = RequestContext(request, question.client, b"http", b"explained")
    problem, preflight = _decide(Admission(RouteTable(routes.routes), guards, verifier, proxies), context)
    lines.append(f"from        {context.client}")
    if context.is_local:
        return [*lines, "answer      by the gateway itself"], True
    asked = [each for each in (context.route, *_asked_too(guards, context)) if each is not None]
    lines += _about(asked)
    if context.token is not None:
        lines += [_holder(context.token), *_missing(asked, context.token)]
    if problem is not None:
        return [*lines, f"answer      {problem.status} {problem.code}: {problem.detail}"], False
    route = asked[0]
    if preflight is not None:
        fault = _fault_of_preflight(route, request, preflight)
        return [*lines, f"answer      204, and {fault or 'a browser sends the request'}"], not fault
    for name in route.upstreams:
        addresses = ", ".join(routes.upstreams[name].addresses)
        target = _shown((context.rewritten or context.target).decode())
        lines.append(f"goes to     {name} ({addresses}) as {target}")
    return lines, True


def _decide(admission: Admission, context: RequestContext) -> tuple[Problem | None, Fields | None]:
    """Return why a request is refused, or what answers a preflight."""
    try:
        admission.locate(context)
        if context.is_local:
            return None, None
        preflight = admission.preflight(context)
        if preflight is None:
            admission.admit(context)
    except ProblemError as error:
        return error.problem, None
    except OstiaryError as error:
        return problem_for(error), None
    return None, preflight


def _shown(target: str) -> str:
    """Return a target without the secrets in its query."""
    path, mark, query = target.partition("?")

    def hidden(match: re.Match[str]) -> str:
        return f"{match[1]}=***" if _SECRET.search(unquote(match[1])) else match[0]

    return path + mark + _PARAMETER.sub(hidden, query)


def _about(asked: Sequence[Route]) -> list[str]:
    """Return what a route asks for and allows, and what those ask for whose path the rewritten one is."""
    if not asked:
        return ["route       none"]
    route, *others = asked
    lines = [f"route       {_named(route)}", f"access      {_access(route)}"]
    lines += [f"asked too   {_named(each)}, for its path; access {_access(each)}" for each in others]
    if not route.is_public:
        lines.append(f"staleness   {route.max_staleness}")
    lines += [f"rate limit  {each.requests} requests in {each.seconds:g} s, by {each.by}" for each in route.rate_limits]
    lines.append(f"limits      {route.limits.body_bytes} bytes of body, {route.limits.header_bytes} of head")
    waits = {name: f"{seconds:g} s" for name, seconds in route.timeouts if seconds is not None}
    lines.append(f"timeouts    {', '.join(f'{name} {seconds}' for name, seconds in waits.items())}")
    if route.retries is not None:
        statuses = "".join(f" or {status}" for status in sorted(route.retries.statuses))
        lines.append(f"retries     {route.retries.attempts}, after no answer{statuses}")
    return lines


def _named(route: Route) -> str:
    return f"{route.name}: {', '.join(sorted(route.match.methods))} {route.match.path}"


def _access(route: Route) -> str:
    if not isinstance(route.access, Requirements):
        return route.access
    parts = [f"scope {scope}" for scope in sorted(route.access.scopes)]
    parts += [f"role {role}" for role in sorted(route.access.roles)]
    parts += [f"claim {name} {_condition(wanted)}" for name, wanted in sorted(route.access.claims.items())]
    return " and ".join(parts)


def _condition(wanted: Condition) -> str:
    if wanted.contains is not None:
        return f"with {json.dumps(wanted.contains)} in it"
    return " or ".join(map(json.dumps, wanted.one_of or (wanted.equals,)))


def _holder(token: VerifiedToken) -> str:
    """Return what a token holds."""
    scopes = ", ".join(sorted(token.scopes)) or "none"
    roles = ", ".join(sorted(token.roles)) or "none"
    return f"token       of {token.subject}, client {token.client_id}; scopes: {scopes}; roles: {roles}"


def _missing(routes: Iterable[Route], token: VerifiedToken) -> list[str]:
    """Return what routes ask for that a token does not hold."""
    found: dict[str, None] = {}
    for wanted in (route.requirements for route in routes):
        if wanted is not None:
            claims = {name: claim_of(token, name) for name in wanted.claims}
            found |= dict.fromkeys(f"scope {scope}" for scope in sorted(wanted.scopes - token.scopes))
            found |= dict.fromkeys(f"role {role}" for role in sorted(wanted.roles - token.roles))
            found |= dict.fromkeys(
                f"claim {name} {_condition(condition)}; it is {json.dumps(claims[name], default=repr)}"
                for name, condition in sorted(wanted.claims.items())
                if not condition.holds(claims[name])
            )
    return [f"missing     {each}" for each in found]


def _asked_too(guards: Guards, context: RequestContext) -> list[Route]:
    """Return the other routes that the path belongs to which the upstream gets: they have a say, too."""
    route = context.route
    if route is None or (route.rewrite is not None and not context.rewritten):
        return []
    path = (context.rewritten or context.target).partition(b"?")[0]
    return [each for each in guards.asked(route, context.request.method, path) if each is not route]


def _fault_of_preflight(route: Route, request: Request, answer: Fields) -> str:
    """Return why a browser does not send the request that it asks about, if so (Fetch standard, section 4.8)."""
    allowed = dict(answer)
    if route.cors is None:
        return "a browser does not send the request: the route has no 'cors'"
    if b"access-control-allow-origin" not in allowed:
        return "a browser does not send the request: the route's 'cors' does not name its origin"
    names = {name.strip().lower() for name in allowed[b"access-control-allow-headers"].decode().split(",")}
    refused = sorted(cors.announced(request)[1] - names - {""})
    return f"a browser does not send the request: 'cors' does not name {', '.join(refused)}" if refused else ""
