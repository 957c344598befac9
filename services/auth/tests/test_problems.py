"""Every domain error has a status."""

from ostiary_auth import problems
from ostiary_auth.domain import errors


def test_every_refusal_has_a_status() -> None:
    def all_kinds(kind: type[errors.AuthError]) -> set[type[errors.AuthError]]:
        return {kind, *(each for sub in kind.__subclasses__() for each in all_kinds(sub))}

    assert all_kinds(errors.AuthError) - {errors.AuthError} == set(problems._STATUSES)
