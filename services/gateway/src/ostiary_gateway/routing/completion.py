"""From a file's value to complete routes: with the defaults, credentials and HEAD.

A `RouteMemory` keeps the routes of the last valid file. A route that a later one has in the same words, under the same
defaults, is the very same object then: so it is not validated again, and what else is known of it still holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ostiary_gateway.routing.config import Conditions, Route, RoutesFile
from ostiary_gateway.routing.credentials import with_credentials
from ostiary_gateway.routing.types import error_message
from ostiary_gateway.routing.yaml import Location

_NOTHING: frozenset[Conditions] = frozenset()


class InvalidRoutes(Exception):
    """An error at a place in the routes file."""

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True, slots=True)
class _Known:
    """A complete route."""

    route: Route
    #: For which requests the file lists HEAD here.
    listed: frozenset[Conditions]


class RouteMemory:
    """The routes of the last valid file."""

    def __init__(self) -> None:
        # By their text in the file.
        self._known: dict[str, _Known] = {}
        # What they have been completed with.
        self._around = ""

    def complete(self, document: object) -> tuple[RoutesFile, Callable[[], None]]:
        """Validate the value of a file, which is used up; return it with complete routes, and what remembers these.

        Raises ValidationError or InvalidRoutes.
        """
        if not isinstance(document, dict) or not isinstance(written := document.get("routes"), list):
            return RoutesFile.model_validate(document), lambda: None
        around = repr([document.get(name) for name in ("defaults", "browser")])
        known = self._known if around == self._around else {}
        # Values differ if their texts do: they have nothing but strings, numbers, truth values and None.
        texts = [_take_known(known, written, index) for index in range(len(written))]
        file = RoutesFile.model_validate(document)
        while written:
            # One by one: the event loop would wait until all were freed.
            written.pop()
        _check_defaults(file)
        routes = [
            known.get(text) or _Known(_completed(file, index, route), _listed(route))
            for index, (text, route) in enumerate(zip(texts, file.routes, strict=True))
        ]
        listed = _NOTHING.union(*(each.listed for each in routes))
        routes = [_with_head(each, listed) for each in routes]

        def remember() -> None:
            self._known, self._around = dict(zip(texts, routes, strict=True)), around

        return file.model_copy(update={"routes": tuple(each.route for each in routes)}), remember


def _take_known(known: dict[str, _Known], written: list[Any], index: int) -> str:
    """Put the known route in the place of what is written, if there is one. Return the text."""
    text = repr(written[index])
    if (found := known.get(text)) is not None:
        written[index] = found.route
    return text


def _check_defaults(file: RoutesFile) -> None:
    if file.defaults.cors is not None and not file.defaults.cors.origins:
        raise InvalidRoutes(("defaults", "cors", "origins"), "required field is missing")


def _completed(file: RoutesFile, index: int, route: Route) -> Route:
    """Return a route with the file's defaults, and with its credentials. Raises InvalidRoutes."""
    complete = {}
    for name in file.defaults.model_fields_set:
        try:
            complete[name] = route.policy(name, getattr(file.defaults, name))
        except ValidationError as error:
            message = f"together with 'defaults': {error_message(error.errors()[0])}"
            raise InvalidRoutes(("routes", index, name), message) from None
    route = route.model_copy(update=complete)
    if route.cors is not None and not route.cors.origins:
        raise InvalidRoutes(("routes", index, "cors", "origins"), "required field is missing")
    return with_credentials(route, file.browser)


def _listed(route: Route) -> frozenset[Conditions]:
    return route.match.conditions if "HEAD" in route.match.methods else _NOTHING


def _with_head(known: _Known, listed: frozenset[Conditions]) -> _Known:
    """Let a route with GET take HEAD, too (RFC 9110 section 9.3.2), unless another one lists HEAD for the same."""
    match = known.route.match
    takes_head = bool(known.listed) or ("GET" in match.methods and listed.isdisjoint(match.conditions))
    if takes_head is ("HEAD" in match.methods):
        return known
    match = match.model_copy(update={"methods": match.methods ^ {"HEAD"}})
    return _Known(known.route.model_copy(update={"match": match}), known.listed)
