"""Bodies that several capabilities share."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """What there is to see of something in the domain: its attributes of these names."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, thing: object) -> Self:
        """Return the view of a thing."""
        return cls.model_validate(thing)
