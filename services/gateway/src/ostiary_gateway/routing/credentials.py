"""Which credentials routes take: completes what the routes leave out, and checks it against the section `browser`."""

from collections.abc import Collection, Iterable, Iterator
from urllib.parse import urlsplit

from ostiary.browser import cookie_names
from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.browser import EXCHANGE_PATH, BrowserSessions
from ostiary_gateway.routing.config import Route, RoutesFile
from ostiary_gateway.routing.table import RouteTable
from ostiary_gateway.routing.templates import EXAMPLE
from ostiary_gateway.routing.yaml import Location


def with_credentials(route: Route, browser: BrowserSessions | None) -> Route:
    """Return the route with its credentials; a public one takes none."""
    if route.is_public or route.credentials is not None:
        return route
    default = frozenset({"bearer"} if browser is None else {"bearer", "cookie"})
    return route.model_copy(update={"credentials": default})


def faults(file: RoutesFile) -> Iterator[tuple[Location, str]]:
    """Yield what does not fit together in a file whose routes are complete, and where."""
    if file.browser is not None and file.browser.upstream not in file.upstreams:
        yield ("browser", "upstream"), f"unknown upstream '{file.browser.upstream}'"
    for index, route in enumerate(file.routes):
        for member, message in _route_faults(file, route):
            yield ("routes", index, member), message


def check_issuer(file: RoutesFile, issuer: str) -> None:
    """Check that browsers keep cookies for the issuer's URL, if the file has browser sessions. Raises ConfigError."""
    if file.browser is not None:
        try:
            cookie_names(issuer)
        except ValueError as error:
            raise ConfigError(f"OSTIARY_ISSUER: {error}; set one, or remove 'browser' from the routes file") from None


def session_cookie(issuer: str) -> str:
    """Return the name of the session's cookie; empty if there can be no browser sessions."""
    try:
        return cookie_names(issuer).session.decode()
    except ValueError:
        return ""


def summary(file: RoutesFile, issuer: str) -> list[str]:
    """Describe what browser sessions are used for, and what may be a mistake in that, line by line."""
    browser = file.browser
    if browser is None:
        return []
    lines = [
        f"browser sessions of upstream {browser.upstream}; trusted origins: {_joined(browser.trusted_origins)}",
        f"cookies count for: {_joined(route.name for route in file.routes if route.takes_cookies)}",
    ]
    lines += [
        f"{origin} is of another site than this gateway: browsers send it no cookies"
        for origin in _of_other_sites(browser, file.hosts, issuer)
    ]
    if leading := [route.name for route in file.routes if route.login is not None]:
        lines.append(f"without a session, pages lead to {browser.login_path}: {_joined(leading)}")
        lines += _login_page_faults(file, browser.login_path or "")
    if exposing := [route.name for route in file.routes if _exposes_exchange(route, browser)]:
        lines.append(f"{EXCHANGE_PATH} is for gateways alone, and open to everybody by: {_joined(exposing)}")
    if embedded := [route.name for route in file.routes if route.embed is not None]:
        lines.append(f"pages of the same site may embed: {_joined(embedded)}")
    return lines


def _of_other_sites(browser: BrowserSessions, hosts: Collection[str], issuer: str) -> list[str]:
    """Return the trusted origins that are certainly of other sites (HTML standard, section 7.1.1.1)."""
    gateway = urlsplit(issuer)
    sites = {(gateway.scheme, _site(host)) for host in {gateway.hostname or "", *hosts}}
    parts = {origin: urlsplit(origin.removesuffix(":*")) for origin in browser.trusted_origins}
    return sorted(origin for origin, each in parts.items() if (each.scheme, _site(each.hostname or "")) not in sites)


def _site(host: str) -> str:
    """Return the end that hosts of one site have in common at least: a public suffix and one more label."""
    return host if host.replace(".", "").isdigit() or ":" in host else ".".join(host.rsplit(".", 2)[-2:])


def _exposes_exchange(route: Route, browser: BrowserSessions) -> bool:
    if browser.upstream not in route.upstreams or "POST" not in route.match.methods:
        return False
    return route.upstream_template.matches(tuple(EXCHANGE_PATH[1:].split("/")))


def _login_page_faults(file: RoutesFile, login_path: str) -> Iterator[str]:
    hosts = sorted({host for route in file.routes if route.login is not None for host in route.match.hosts or {""}})
    table = RouteTable(file.routes)
    for host in hosts:
        where = f"{login_path}{f' on {host}' if host else ''}"
        found = table.candidates(host.replace("*", EXAMPLE).encode(), login_path.encode()).get("GET", ())
        if not found:
            yield f"{where}: no route takes this login page"
        elif not any(route.is_public or route.is_optional for route in found):
            yield f"{where}: nobody gets to this login page without a session (route {found[0].name})"


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _route_faults(file: RoutesFile, route: Route) -> Iterator[tuple[str, str]]:
    if route.takes_cookies and file.browser is None:
        yield "credentials", "'cookie' requires the section 'browser'"
    for name in ("login", "embed"):
        if getattr(route, name) is not None and not route.takes_cookies:
            yield name, "is for routes that take cookies: 'credentials' must have 'cookie', and the file 'browser'"
    if file.browser is None:
        return
    if file.browser.upstream in route.upstreams and len(route.upstreams) > 1:
        yield "upstream", "the auth service of 'browser' shares no route, as others do not get its cookies; use 'urls'"
    if route.login is not None and file.browser.login_path is None:
        yield "login", "requires 'login_path' in the section 'browser'"
    sees_cookies = route.takes_cookies or file.browser.upstream in route.upstreams
    if route.cors is not None and route.cors.credentials and sees_cookies:
        foreign = sorted(each for each in route.cors.origins if not file.browser.trusted.covers(each))
        if foreign:
            yield "cors", f"'credentials' requires origins within 'trusted_origins' of 'browser': {foreign[0]} is not"
