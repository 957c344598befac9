"""The base of request bodies."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

#: Levels of nested objects and arrays; the services' bodies have two.
MAX_DEPTH = 16


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
