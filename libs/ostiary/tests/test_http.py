"""RFC 6750 and RFC 9457: tokens from requests, errors into responses."""

import inspect
import json

import pytest

from ostiary import errors
from ostiary.http import Problem, bearer_token, problem_for


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER abc", "Bearer  abc"])
def test_the_scheme_has_no_case(value: str) -> None:
    assert bearer_token([value]) == "abc"


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "Digest", "abc"])
def test_anything_but_a_bearer_token_is_no_token(value: str) -> None:
    with pytest.raises(errors.MissingToken):
        bearer_token([value])


def test_two_authorization_fields_are_rejected() -> None:
    with pytest.raises(errors.Malformed):
        bearer_token(["Bearer a", "Bearer b"])


def leaves(base: type[errors.OstiaryError]) -> list[type[errors.OstiaryError]]:
    subclasses = base.__subclasses__()
    return [leaf for sub in subclasses for leaf in leaves(sub)] if subclasses else [base]


@pytest.mark.parametrize("kind", leaves(errors.OstiaryError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_response(kind: type[errors.OstiaryError]) -> None:
    error = kind(frozenset({"b", "a"})) if kind is errors.InsufficientScope else kind()
    problem = problem_for(error)
    document = json.loads(problem.to_json())
    assert document["code"] == kind.code
    assert document["status"] == problem.status
    assert document["title"]
    challenge = problem.headers.get("WWW-Authenticate", "")
    if issubclass(kind, errors.UndecidableError):
        assert problem.status == 503
        assert problem.headers["Retry-After"] == "1"
        assert not challenge
    elif issubclass(kind, errors.AccessError):
        assert problem.status == 403
        assert 'error="insufficient_scope"' in challenge
    elif issubclass(kind, errors.CookieError):
        assert problem.status == (400 if kind is errors.RepeatedCookie else 403)
        assert not challenge
    else:
        assert problem.status == 401
        assert ('error="invalid_token"' in challenge) is (kind is not errors.MissingToken)


def test_a_missing_scope_is_named() -> None:
    problem = problem_for(errors.InsufficientScope(frozenset({"b", "a"})))
    assert 'scope="a b"' in problem.headers["WWW-Authenticate"]


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in leaves(errors.OstiaryError)]
    assert len(set(codes)) == len(codes)


def test_the_tree_at_the_top_of_the_module_is_complete() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.OstiaryError):
            assert name in (errors.__doc__ or ""), name


def test_extension_members_stand_beside_the_standard_ones() -> None:
    assert json.loads(Problem(422, "x", "y", extra={"errors": []}).to_json()) == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "code": "x",
        "detail": "y",
        "errors": [],
    }


@pytest.mark.parametrize(("status", "title"), [(413, "Content Too Large"), (422, "Unprocessable Content")])
def test_a_title_is_the_reason_phrase_of_rfc_9110_on_any_python(status: int, title: str) -> None:
    assert json.loads(Problem(status, "code", "detail").to_json())["title"] == title
