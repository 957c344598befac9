"""Query parameters: what two parsers could read differently is rejected, and what nobody knows ignored."""

from collections.abc import Collection

from starlette.datastructures import QueryParams

from ostiary.http import Problem
from ostiary_chassis.problems import ProblemError


def refuse_repeated(query: QueryParams, known: Collection[str]) -> None:
    """Raise ProblemError if one of these parameters is there more than once."""
    if len(query) == len(query.multi_items()):
        return
    for name in known:
        if len(query.getlist(name)) > 1:
            raise ProblemError(Problem(422, "invalid_request", f"The parameter '{name}' is repeated: send it once."))
