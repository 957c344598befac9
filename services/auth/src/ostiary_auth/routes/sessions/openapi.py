"""The OpenAPI document's part about `/session`, which FastAPI does not know."""

from typing import Any

from pydantic import BaseModel

from ostiary_auth.paths import SESSION_END_PATH, SESSION_PATH
from ostiary_auth.routes.prefer_wait import PARAMETER
from ostiary_auth.routes.revocation.models import InForceResponse
from ostiary_auth.routes.sessions.browser_models import (
    BrowserLoginRequest,
    BrowserSessionResponse,
    CurrentSessionResponse,
)
from ostiary_auth.routes.sessions.models import EndedResponse
from ostiary_chassis.media_types import FORM
from ostiary_chassis.openapi import documented

_PATH = {"type": "string", "description": "A path of the same origin; anything else counts as absent."}


def session_paths() -> dict[str, Any]:
    """Return the paths, for an OpenAPI document."""
    login = _schema(BrowserLoginRequest)
    pages = {"return_to": _PATH, "login_page": {**_PATH, "description": "Where a failure leads, with `error`."}}
    form = {**login, "title": "BrowserLoginForm", "properties": {**login["properties"], **pages}}
    form.pop("additionalProperties", None)
    logged_out = {"description": "The session has ended; its cookies are deleted.", **_json(EndedResponse)}
    logged_out["content"]["application/json"]["schema"] = {"anyOf": [_schema(EndedResponse), _schema(InForceResponse)]}
    return {
        SESSION_PATH: {
            "get": _operation(
                "session",
                "Tell who is logged in; without a valid token, nobody is.",
                {"200": {"description": "Success.", **_json(CurrentSessionResponse)}},
                security=[{"bearer": []}, {}],
            ),
            "post": _operation(
                "session_log_in",
                "Log in with a browser. The session and its access token are set as HttpOnly cookies.",
                {
                    "200": {"description": "Success.", **_json(BrowserSessionResponse)},
                    "303": {"description": "To `return_to`; after a failure to `login_page`. For forms."},
                    **_problems(401, 403, 429),
                },
                body={"application/json": {"schema": login}, FORM: {"schema": form}},
            ),
            "delete": _operation(
                "session_log_out",
                "Log out: end the session of the request's cookie and delete the cookies.",
                {"200": logged_out, **_problems(400, 403)},
                parameters=[PARAMETER],
            ),
        },
        SESSION_END_PATH: {
            "post": _operation(
                "session_log_out_form",
                "Log out, from a page without scripts.",
                {"303": {"description": "To `return_to`, or `/`."}, **_problems(400, 403, 422)},
                body={FORM: {"schema": {"type": "object", "properties": {"return_to": _PATH}}}},
            )
        },
    }


def _operation(
    name: str,
    summary: str,
    responses: dict[str, Any],
    *,
    body: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    operation = {"tags": ["account"], "summary": summary, "operationId": name, "responses": responses, **more}
    if body:
        operation["requestBody"] = {"required": "application/json" in body, "content": body}
    return operation


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(status): response for status, response in documented(*statuses).items()}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": _schema(model)}}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a schema without references to others."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            return resolved(definitions[name]) if name in definitions else {k: resolved(v) for k, v in value.items()}
        return [resolved(item) for item in value] if isinstance(value, list) else value

    resolved_schema: dict[str, Any] = resolved(schema)
    return resolved_schema
