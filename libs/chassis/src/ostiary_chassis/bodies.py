"""JSON request bodies: read strictly, as what two parsers could read differently is rejected."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.requests import Request
from starlette.responses import Response

from ostiary_chassis.media_types import is_json
from ostiary_chassis.problems import UNSUPPORTED_MEDIA_TYPE, ProblemError, malformed_json
from ostiary_chassis.queries import refuse_repeated

#: Levels of nested objects and arrays; the services' bodies have two.
MAX_DEPTH = 16

#: Characters of a member's name in an error.
_MAX_NAME_CHARACTERS = 100


async def read_json(request: Request) -> object:
    """Return the value in a request's body. Raises ProblemError: 415 for other media types, 400 for malformed JSON."""
    if not is_json(request):
        raise ProblemError(UNSUPPORTED_MEDIA_TYPE)
    return parse_json(await request.body())


def parse_json(content: bytes) -> object:
    """Return the value in a JSON text (RFC 8259).

    Raises ProblemError for other encodings than UTF-8, repeated members, numbers that are none or infinite, and nesting
    too deep to parse.
    """
    try:
        # Some clients send a byte order mark, which may be ignored (section 8.1).
        return _decoder.decode(content.decode("utf-8-sig"))
    except _Repeated as error:
        name = json.dumps(str(error)[:_MAX_NAME_CHARACTERS])
        raise ProblemError(malformed_json(f"An object in the request body has the member {name} twice.")) from None
    except (ValueError, RecursionError):
        raise ProblemError(malformed_json()) from None


class _Repeated(ValueError):
    """A member of an object is repeated; the text is its name."""


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise _Repeated(name)
        members[name] = value
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("too large")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_unrepeated, parse_constant=_no_constant, parse_float=_finite)


class _JsonRequest(Request):
    async def json(self) -> Any:
        return await read_json(self)


class StrictRoute(APIRoute):
    """A route whose query and JSON body are read strictly. Every route with either has to be one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = [each.alias for each in get_flat_params(self.dependant) if isinstance(each.field_info, Query)]

        async def handle_strictly(request: Request) -> Response:
            refuse_repeated(request.query_params, known)
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


class RequestBody(BaseModel):
    """A JSON request body. Types are not coerced, and unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_storable(cls, data: Any) -> Any:
        """Reject what JSON permits and databases or UTF-8 cannot store: NUL and lone surrogates (RFC 8259 8.2)."""
        _check(data, MAX_DEPTH)
        return data


def _check(value: object, depth: int) -> None:
    if isinstance(value, str):
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("contains a NUL character or a lone surrogate")
        return
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"exceeds {MAX_DEPTH} levels of nesting")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(item, depth - 1)
