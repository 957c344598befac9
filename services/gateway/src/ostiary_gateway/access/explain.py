"""Explains what the gateway does with a request. The same code decides as when it serves."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ostiary import VerifiedToken, Verifier
from ostiary.browser import cookie_names
from ostiary.errors import OstiaryError
from ostiary.http import Problem, problem_for
from ostiary_chassis.problems import ProblemError
from ostiary_chassis.proxies import TrustedProxies
from ostiary_gateway.access import cors
from ostiary_gateway.access.admission import Admission
from ostiary_gateway.access.authentication import Authentication
from ostiary_gateway.access.credentials import Browser
from ostiary_gateway.access.explain_session import credential_rules, credential_used, waits_for_token
from ostiary_gateway.access.renewal import RenewalNeeded
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.http1 import parser
from ostiary_gateway.http1.errors import BadMessage
from ostiary_gateway.http1.fields import SENSITIVE_NAMES, Fields
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.config import OWN_PATHS, Route, RoutesFile
from ostiary_gateway.routing.hosts import KnownHosts
from ostiary_gateway.routing.overlap import OwnerIndex
from ostiary_gateway.routing.requirements import Condition, Requirements, claim_value
from ostiary_gateway.routing.table import RouteTable

# Names of query parameters whose values are not shown; the last two are OAuth's.
_SECRET = re.compile(f"{SENSITIVE_NAMES}|code|state", re.IGNORECASE)
_PARAMETER = re.compile(r"([^&;=]+)=([^&;]*)")


@dataclass(frozen=True, slots=True)
class HypotheticalRequest:
    """A request that a client at the address `client` might send."""

    method: str
    url: str
    headers: Sequence[str] = ()
    token: str | None = None
    client: str = "127.0.0.1"

    @property
    def has_credentials(self) -> bool:
        """Whether anything in it may have to be verified."""
        return self.token is not None or any(
            field.lower().startswith(("authorization:", "cookie:")) for field in self.headers
        )

    @property
    def target(self) -> str:
        """Path and query exactly as in the URL: a normalised path would be another one."""
        parts = urlsplit(self.url)
        return (self.url.removeprefix(f"{parts.scheme}://{parts.netloc}") if parts.netloc else self.url) or "/"

    @property
    def head(self) -> bytes:
        fields = list(self.headers)
        if not any(field.lower().startswith("host:") for field in fields):
            fields.insert(0, f"Host: {urlsplit(self.url).netloc or 'localhost'}")
        if self.token is not None:
            fields.append(f"Authorization: Bearer {self.token}")
        lines = [f"{self.method} {self.target} HTTP/1.1", *fields, "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def explain(
    routes: RoutesFile,
    verifier: Verifier,
    proxies: TrustedProxies,
    issuer: str,
    hypothetical: HypotheticalRequest,
    *,
    own_paths: frozenset[str] = OWN_PATHS,
) -> tuple[list[str], bool]:
    """Return the explanation, line by line, and whether the request is allowed. The token is not shown."""
    lines = [f"request     {hypothetical.method} {_redact(hypothetical.target)}"]
    try:
        request = parser.parse_request(hypothetical.head)
    except BadMessage as error:
        return [*lines, f"response    400: not valid HTTP/1.1 ({error})"], False
    owners = OwnerIndex(routes)
    context = RequestContext(request, hypothetical.client, b"http", b"explained")
    table, hosts = RouteTable(routes.routes), KnownHosts(issuer, routes.hosts, routes.hosts_internal)
    browser = Browser(cookie_names(issuer), routes.browser) if routes.browser is not None else None
    authentication = Authentication(verifier, browser, None)
    admission = Admission(
        table, owners, authentication, proxies, hosts, default_cors=routes.defaults.cors, own_paths=own_paths
    )
    problem, own_fields = _decide(admission, context)
    lines.append(f"client      {context.client}")
    if context.is_local:
        return [*lines, "response    from the gateway itself"], True
    checked = [each for each in (context.route, *_other_owners(owners, context)) if each is not None]
    if own_fields is not None and not cors.is_preflight(request):
        return [*lines, f"response    204; Allow: {dict(own_fields)[b'allow'].decode()}"], True
    lines += _rules(checked, browser, is_websocket=context.is_websocket)
    lines += credential_used(context, browser, verifier)
    if context.token is not None:
        lines += [_token(context.token), *_missing(checked, context.token)]
    if problem is not None:
        after = "" if own_fields is None else "204; a browser sends the request, which gets "
        return [*lines, f"response    {after}{_rejection(admission, context, problem)}"], False
    route = checked[0]
    if own_fields is not None:
        fault = _preflight_fault(route, request, own_fields)
        return [*lines, f"response    204; {fault or 'a browser sends the request'}"], not fault
    return [*lines, *_sent_on(routes, route, context)], True


def _decide(admission: Admission, context: RequestContext) -> tuple[Problem | None, Fields | None]:
    """Return the problem of a rejected request, and the fields of a response to OPTIONS that is the gateway's own."""
    try:
        admission.locate(context)
        if context.is_local:
            return None, None
        own_fields = admission.own_options(context) if context.request.method == "OPTIONS" else None
        if own_fields is None:
            admission.admit(context)
    except ProblemError as error:
        return error.problem, admission.preflight_without_route(context)
    except OstiaryError as error:
        return problem_for(error), None
    except RenewalNeeded:
        # Nothing is sent: the session may have ended.
        return None, None
    return None, own_fields


def _sent_on(routes: RoutesFile, route: Route, context: RequestContext) -> list[str]:
    """Describe what an upstream gets."""
    if waits_for_token(context):
        return ["response    depends on the answer"]
    lost = context.rules.filter.lost(context.request.fields) if context.rules is not None else {}
    lines = [f"not sent    {name}: {why}" for name, why in lost.items()]
    for name in route.upstreams:
        addresses = ", ".join(routes.upstreams[name].addresses)
        target = _redact((context.rewritten or context.target).decode())
        host = routes.upstreams[name].host
        sent = context.host.decode() if host == "client" else "its address" if host == "upstream" else host
        lines += [f"host        {sent}", f"upstream    {name} ({addresses}) gets {target}"]
    return lines


def _redact(target: str) -> str:
    """Hide the values of secret query parameters."""
    path, mark, query = target.partition("?")

    def replacement(match: re.Match[str]) -> str:
        return f"{match[1]}=***" if _SECRET.search(unquote(match[1])) else match[0]

    return path + mark + _PARAMETER.sub(replacement, query)


def _rejection(admission: Admission, context: RequestContext, problem: Problem) -> str:
    page = admission.login_page(context, problem)
    if page is not None:
        return f"303 to {_redact(page.decode())}, in place of {problem.status} {problem.code}"
    return f"{problem.status} {problem.code}: {problem.detail}"


def _rules(checked: Sequence[Route], browser: Browser | None, *, is_websocket: bool) -> list[str]:
    """Describe the route that a request takes, and the access rules of the other owners of the upstream path."""
    if not checked:
        return ["route       none"]
    route, *owners = checked
    lines = [f"route       {_summary(route)}", f"access      {_access(route)}"]
    lines += [f"path owner  {_summary(each)}; its access applies, too: {_access(each)}" for each in owners]
    lines += credential_rules(route, browser)
    if not route.is_public:
        lines.append(f"staleness   {route.max_staleness}")
    lines += [f"rate limit  {each.requests} requests per {each.seconds:g} s by {each.by}" for each in route.rate_limits]
    lines.append(f"limits      body {route.limits.body_bytes} bytes, head {route.limits.header_bytes} bytes")
    timeouts = {name: f"{seconds:g} s" for name, seconds in route.timeouts if seconds is not None}
    if is_websocket:
        # The limit that holds is the other one.
        del timeouts["idle"]
    lines.append(f"timeouts    {', '.join(f'{name} {seconds}' for name, seconds in timeouts.items())}")
    if route.allows_encoded:
        lines.append(f"encoded     {' '.join(sorted(route.allows_encoded))}")
    if route.retries is not None:
        statuses = "".join(f" or {status}" for status in sorted(route.retries.statuses))
        lines.append(f"retries     at most {route.retries.attempts}, after no response{statuses}")
    if route.cors is not None:
        credentials = ", with credentials" if route.cors.credentials else ""
        lines.append(f"cors        {', '.join(sorted(route.cors.origins))}{credentials}")
    return lines


def _summary(route: Route) -> str:
    return f"{route.name}: {', '.join(sorted(route.match.methods))} {route.match.path}"


def _access(route: Route) -> str:
    if not isinstance(route.access, Requirements):
        return route.access
    parts = [f"scope {scope}" for scope in sorted(route.access.scopes)]
    parts += [f"role {role}" for role in sorted(route.access.roles)]
    parts += [_claim(name, condition) for name, condition in sorted(route.access.claims.items())]
    return " and ".join(parts)


def _claim(name: str, condition: Condition) -> str:
    if condition.contains is not None:
        return f"claim {name} containing {json.dumps(condition.contains)}"
    return f"claim {name} = {' or '.join(map(json.dumps, condition.one_of or (condition.equals,)))}"


def _token(token: VerifiedToken) -> str:
    scopes = ", ".join(sorted(token.scopes)) or "none"
    roles = ", ".join(sorted(token.roles)) or "none"
    return f"token       subject {token.subject}, client {token.client_id}; scopes: {scopes}; roles: {roles}"


def _missing(checked: Iterable[Route], token: VerifiedToken) -> list[str]:
    """Describe the requirements that a token does not meet."""
    found: dict[str, None] = {}
    for required in (route.requirements for route in checked):
        if required is not None:
            claims = {name: claim_value(token, name) for name in required.claims}
            found |= dict.fromkeys(f"scope {scope}" for scope in sorted(required.scopes - token.scopes))
            found |= dict.fromkeys(f"role {role}" for role in sorted(required.roles - token.roles))
            found |= dict.fromkeys(
                f"{_claim(name, condition)}; the token has {json.dumps(claims[name], default=repr)}"
                for name, condition in sorted(required.claims.items())
                if not condition.holds(claims[name])
            )
    return [f"missing     {each}" for each in found]


def _other_owners(owners: OwnerIndex, context: RequestContext) -> list[Route]:
    """Return the owners of the upstream path besides the route itself; none if there is no such path yet."""
    route = context.route
    if route is None or (route.rewrite is not None and not context.rewritten):
        return []
    path = (context.rewritten or context.target).partition(b"?")[0]
    return [each for each in owners.owners_for(route, context.request.method, path) if each is not route]


def _preflight_fault(route: Route, request: Request, response: Fields) -> str:
    """Return why a browser does not send the request after a preflight (Fetch standard, section 4.8); "" if it does."""
    allowed = dict(response)
    if route.cors is None:
        return "a browser blocks the request: the route has no 'cors'"
    if b"access-control-allow-origin" not in allowed:
        return "a browser blocks the request: the route's 'cors' does not name its origin"
    names = {name.strip().lower() for name in allowed[b"access-control-allow-headers"].decode().split(",")}
    missing = sorted(cors.requested(request)[1] - names - {""}) if "*" not in names else []
    return f"a browser blocks the request: the route's 'cors' does not name {', '.join(missing)}" if missing else ""
