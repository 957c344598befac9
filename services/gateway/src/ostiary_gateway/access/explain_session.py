"""Explains which credential of a request counts, and why a browser session's cookies do not. Shows no value of one."""

import time

from ostiary import VerifiedToken, Verifier
from ostiary.browser import Verdict
from ostiary.errors import OstiaryError
from ostiary_chassis.problems import ProblemError
from ostiary_gateway.access.authentication import credentials_of
from ostiary_gateway.access.credentials import Browser, Credentials
from ostiary_gateway.access.request import RequestContext
from ostiary_gateway.access.rules import RouteRules
from ostiary_gateway.http1.parser import Request
from ostiary_gateway.routing.config import Route

_WHAT_COUNTS = "requests of the own origin and of 'trusted_origins' count, and links; for siblings, there is 'embed'"

#: What the verdict is about.
_FIELDS = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Origin")


def credential_rules(route: Route, browser: Browser | None) -> list[str]:
    """Describe the credentials that a route takes, and what that means for people without a session."""
    if browser is None or route.is_public:
        return []
    lines = [f"credentials {' or '.join(sorted(route.credentials or {'bearer'}))}"]
    if route.login is not None:
        lines.append(f"login       without a session, pages lead to {browser.login_path}")
    if route.embed is not None:
        lines.append("embed       pages of the same site may embed what the session reads")
    return lines


def credential_used(context: RequestContext, browser: Browser | None, verifier: Verifier) -> list[str]:
    """Describe what a request has that tells who sent it, and why it counts or does not."""
    rules, route = context.rules, context.route
    if browser is None or rules is None or route is None:
        return []
    credentials = credentials_of(context)
    if not credentials.cookie_fields:
        return []
    name = browser.names.session.decode()
    try:
        session = credentials.read(browser.names, verifier)
    except ProblemError:
        return ["cookie      refused: a cookie of the session came twice"]
    if session is None:
        return [f"cookie      none of a session: it has no {name} of the right form"]
    why = _disregard(route, rules, credentials)
    if why:
        return [f"cookie      {name} {why}"]
    line = f"cookie      {name} {_verdict(context, credentials, rules, browser)}"
    return [line, *_tokens(context, credentials, session.id, verifier)]


def _disregard(route: Route, rules: RouteRules, credentials: Credentials) -> str:
    """Return why cookies do not count, whoever has made the request; "" if they may."""
    if credentials.has_bearer:
        return "is not looked at: there is a bearer token"
    if route.is_public:
        return "" if rules.is_to_issuer else "does not count: the route is public"
    return "" if rules.takes_cookies else "does not count: the route takes bearer tokens alone"


def waits_for_token(context: RequestContext) -> bool:
    """Return whether an admitted request waits for an access token of its session before anything is decided."""
    rules = context.rules
    return rules is not None and rules.takes_cookies and context.session is not None and context.token is None


def _verdict(context: RequestContext, credentials: Credentials, rules: RouteRules, browser: Browser) -> str:
    """Describe whether the cookies count for the site that the request comes from."""
    verdict = credentials.verdict(rules, context.own_origin, browser, is_websocket=context.is_websocket)
    given = f"{_site(context.request)}; own origin {context.own_origin.decode()}"
    if verdict is Verdict.COUNTS:
        return f"counts: {given}"
    if verdict is Verdict.ABSENT or context.route is None or context.route.is_public:
        return f"counts as absent: {given}; {_WHAT_COUNTS}"
    return f"is refused: {given}"


def _site(request: Request) -> str:
    """Describe what a request tells about the page that has made it."""
    given = [(name, request.by_name.get(name.lower().encode())) for name in _FIELDS]
    told = [f"{name} {value.decode('latin-1')}" for name, value in given if value is not None]
    if told:
        return ", ".join(told)
    return f"neither Sec-Fetch-Site nor Origin, Content-Type {_content_type(request)}"


def _content_type(request: Request) -> str:
    return request.by_name.get(b"content-type", b"none").decode("latin-1")


def _tokens(context: RequestContext, credentials: Credentials, session_id: str, verifier: Verifier) -> list[str]:
    """Describe the access token that came along, unless it has told who the person is."""
    if context.session is None or context.token is not None:
        return []
    return [f"token       {_fault(credentials, session_id, verifier)}"]


def _fault(credentials: Credentials, session_id: str, verifier: Verifier) -> str:
    needed = "the gateway asks the auth service for another one first"
    if verifier.session_revoked(session_id):
        return "none counts: the session has ended"
    if credentials.token is None:
        return f"none came along: {needed}"
    try:
        token: VerifiedToken = verifier.verify(credentials.token, max_staleness=None)
    except OstiaryError as error:
        return f"the one that came along is not good ({error.code}): {needed}"
    if token.session_id != session_id:
        return f"the one that came along is of another session: {needed}"
    return f"the one that came along ends in {max(0, int(token.expires_at - time.time()))} s: {needed}"
