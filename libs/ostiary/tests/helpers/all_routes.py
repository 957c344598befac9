"""What holds for all routes of a service: their names in its log and metrics, and how they read JSON."""

import re

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from structlog.testing import capture_logs

from ostiary_chassis.bodies import StrictRoute
from ostiary_chassis.middleware import OPERATIONS

_PARAMETER = re.compile(r"\{[^}]+\}")


async def wrongly_named_routes(app: FastAPI, client: httpx.AsyncClient) -> list[str]:
    """Send requests to each route, with its methods and with others; return those that have another name."""
    wrong, counted = [], set()
    for route in iter_route_contexts(app.routes):
        template = str(route.path_format)
        for method in sorted({*(route.methods or ()), "HEAD", "PUT"}):
            with capture_logs() as records:
                # No parameter is like that, and a request that fails has a name, too.
                response = await client.request(method, _PARAMETER.sub("some", template))
            lines = [each["route"] for each in records if each["event"] == "request"]
            is_routine = template in OPERATIONS or not (lines or response.is_error)
            if not is_routine and lines != [template]:
                wrong.append(f"log: {method} {template}: {lines}")
            labels = f'method="{method}",route="{template}",status="{response.status_code}"'
            counted.add(f"http_requests_total{{{labels}}}")
    text = (await client.get("/metrics")).text
    return [*wrong, *(each for each in sorted(counted) if each not in text)]


def lenient_routes(app: FastAPI) -> list[str]:
    """Return the routes with a body whose JSON is read as the framework does."""
    routes = [route.original_route for route in iter_route_contexts(app.routes)]
    with_body = [route for route in routes if isinstance(route, APIRoute) and route.body_field is not None]
    return [route.path for route in with_body if not isinstance(route, StrictRoute)]
