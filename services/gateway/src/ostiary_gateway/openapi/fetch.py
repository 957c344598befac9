"""Fetches the OpenAPI documents of services, for the command line."""

import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing.config import OPENAPI_PATH, RoutesFile

#: Seconds for each operation of a fetch: connecting, and reading the next piece of the response.
TIMEOUT_SECONDS = 10.0

_UNIX = "unix:"


def fetch_documents(routes: RoutesFile, urls: list[str], public_host: str) -> dict[str, dict[str, Any]]:
    """Fetch the documents at `urls`, or else that of each upstream, by name of the upstream. Raises ConfigError.

    `public_host` is the gateway's, which services expect in `Host` where the client's is passed on.
    """
    if not urls:
        return {
            name: _fetch(f"{each.addresses[0]}{OPENAPI_PATH}", _fields(each.host, public_host))
            for name, each in routes.upstreams.items()
            if each.openapi
        }
    found: dict[str, dict[str, Any]] = {}
    for url in urls:
        names = [
            name for name, each in routes.upstreams.items() if any(url.startswith(f"{a}/") for a in each.addresses)
        ]
        if not names:
            raise ConfigError(f"{url}: no upstream in the routes file has this address")
        found |= dict.fromkeys(names, _fetch(url, {}))
    return found


def _fields(host: str, public_host: str) -> dict[str, str]:
    return {} if host == "upstream" else {"Host": public_host if host == "client" else host}


def _fetch(url: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Fetch a document; in the URL of a unix socket, the document's path follows the socket's."""
    if url.startswith(_UNIX):
        transport = httpx.HTTPTransport(uds=url.removeprefix(_UNIX).removesuffix(OPENAPI_PATH))
        target = f"http://localhost{OPENAPI_PATH}"
    else:
        # The authorities that the gateway trusts instead of those that httpx brings along.
        transport = httpx.HTTPTransport(verify=ssl.create_default_context())
        target = url
    try:
        with httpx.Client(transport=transport, timeout=TIMEOUT_SECONDS) as client:
            document = client.get(target, headers=fields).raise_for_status().json()
    except httpx.HTTPStatusError as error:
        raise ConfigError(f"{url}: response with status {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigError(f"{url}: {str(error) or type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{url}: response is not JSON") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{url}: response is not an OpenAPI document")
    return document
