"""The base of request bodies."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class RequestBody(BaseModel):
    """A JSON request body. A member that is not known is an error: it was meant to have an effect."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _only_storable_text(cls, data: Any) -> Any:
        """Refuse what JSON can write and no database or UTF-8 can hold: NUL and lone surrogates (RFC 8259 8.2)."""
        if not _is_storable(data):
            raise ValueError("holds a NUL character or half a surrogate pair")
        return data


def _is_storable(value: object) -> bool:
    if isinstance(value, str):
        return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_storable(item) for item in value)
    return True
