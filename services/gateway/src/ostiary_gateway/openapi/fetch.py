"""Asking services for their OpenAPI documents, from the command line."""

import ssl
from typing import Any

import httpx

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.config import DOCUMENT, RoutesFile

#: Seconds for a service to answer.
ANSWER_SECONDS = 10.0

_UNIX = "unix:"


def documents(routes: RoutesFile, urls: list[str]) -> dict[str, dict[str, Any]]:
    """Return documents by upstream: those at `urls`, or what each upstream says itself. Raises ConfigError."""
    if not urls:
        return {name: _ask(f"{each.addresses[0]}{DOCUMENT}") for name, each in routes.upstreams.items()}
    found: dict[str, dict[str, Any]] = {}
    for url in urls:
        names = [
            name for name, each in routes.upstreams.items() if any(url.startswith(f"{a}/") for a in each.addresses)
        ]
        if not names:
            raise ConfigError(f"{url}: no upstream in the routes file has this address")
        found |= dict.fromkeys(names, _ask(url))
    return found


def _ask(url: str) -> dict[str, Any]:
    """Return the document at a URL; at the one of a socket, with the document's path behind that of the socket."""
    if url.startswith(_UNIX):
        transport = httpx.HTTPTransport(uds=url.removeprefix(_UNIX).removesuffix(DOCUMENT))
        asked = f"http://localhost{DOCUMENT}"
    else:
        # The authorities that the gateway trusts, and not those of httpx.
        transport = httpx.HTTPTransport(verify=ssl.create_default_context())
        asked = url
    try:
        with httpx.Client(transport=transport, timeout=ANSWER_SECONDS) as client:
            document = client.get(asked).raise_for_status().json()
    except httpx.HTTPStatusError as error:
        raise ConfigError(f"{url}: the answer is a {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigError(f"{url}: {str(error) or type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{url}: the answer is not JSON") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{url}: the answer is no OpenAPI document")
    return document
