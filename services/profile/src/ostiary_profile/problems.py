"""The profile service's errors as HTTP responses."""

from collections.abc import Mapping

from fastapi import Request, Response

from ostiary.fastapi import problem_response
from ostiary.http import Problem
from ostiary_profile.domain import ProfileChanged, ProfileError, ProfileNotFound

_STATUSES: Mapping[type[ProfileError], int] = {ProfileNotFound: 404, ProfileChanged: 412}


async def on_profile_error(_request: Request, error: ProfileError) -> Response:
    """Return the problem document of a domain error."""
    return problem_response(Problem(_STATUSES[type(error)], error.code, error.detail))
