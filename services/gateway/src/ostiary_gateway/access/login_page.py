"""Where people without a session are led who open a page: to the login page, and from there back."""

from urllib.parse import quote

from ostiary.browser import is_return_path
from ostiary_gateway.access.authentication import credentials_of
from ostiary_gateway.access.credentials import Browser
from ostiary_gateway.access.request import RequestContext


def login_page(context: RequestContext, browser: Browser) -> bytes | None:
    """Return the path of the login page; None for requests that do not open a page, or that carry a bearer token."""
    if browser.login_path is None or not is_navigation(context) or credentials_of(context).has_bearer:
        return None
    if context.path == browser.login_path.encode():
        # It asks for a login itself: that must not lead there again and again.
        return None
    target = context.target.decode("latin-1")
    query = f"?return_to={quote(target, safe='')}" if is_return_path(target) else ""
    return f"{browser.login_path}{query}".encode()


def is_navigation(context: RequestContext) -> bool:
    """Return whether a request opens a page (Fetch Metadata); old browsers tell only that they would show one."""
    request = context.request
    if request.method != "GET":
        return False
    mode = request.by_name.get(b"sec-fetch-mode")
    if mode is not None:
        return mode == b"navigate"
    return b"text/html" in request.by_name.get(b"accept", b"").lower()
