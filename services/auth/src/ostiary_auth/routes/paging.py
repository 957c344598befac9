"""Lists in pages."""

from typing import Annotated, TypeVar

from fastapi import Query

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]


def page_of(found: list[T], limit: int) -> tuple[list[T], T | None]:
    """Return a page of what was found with one more than its limit, and its last item if others follow."""
    page = found[:limit]
    return page, page[-1] if len(found) > limit else None
