"""The base of request bodies."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

#: Objects and lists inside each other; the services' own bodies have two.
MAX_DEPTH = 16


class RequestBody(BaseModel):
    """A JSON request body. A number is no truth value, and a member that is not known was meant to have an effect."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_storable(cls, data: Any) -> Any:
        """Refuse what JSON can write and no database or UTF-8 can hold: NUL and lone surrogates (RFC 8259 8.2)."""
        _check(data, MAX_DEPTH)
        return data


def _check(value: object, depth: int) -> None:
    if isinstance(value, str):
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("holds a NUL character or half a surrogate pair")
        return
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError("is nested too deeply")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(item, depth - 1)
