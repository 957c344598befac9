"""Pagination."""

from typing import Annotated, TypeVar

from fastapi import Query

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items per page.")]


def page_of(found: list[T], limit: int) -> tuple[list[T], T | None]:
    """Return a page, given one item more than its limit, and its last item if there are more."""
    page = found[:limit]
    return page, page[-1] if len(found) > limit else None
