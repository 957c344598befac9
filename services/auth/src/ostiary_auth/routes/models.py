"""Base classes of response bodies."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """A response body with attributes of a domain object."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, thing: object) -> Self:
        return cls.model_validate(thing)
