"""Which route a request takes."""

from collections.abc import Iterable

from ostiary_gateway.routes_file import Route


class NoRoute(Exception):
    """No route has this path."""


class WrongMethod(Exception):
    """Routes have this path, but not with this method. `allowed` are the methods they have."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """Make the error."""
        super().__init__()
        self.allowed = allowed


class RouteTable:
    """All routes, the most specific first; the order in the file does not matter."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Make the table."""
        self.routes = tuple(routes)
        self._routes = sorted(
            ((route.match.template, route) for route in self.routes), key=lambda item: item[0].precedence
        )

    def find(self, method: str, segments: tuple[str, ...]) -> Route:
        """Return the route of a request, its path cut into segments. Raises NoRoute or WrongMethod."""
        fitting = next((template for template, _ in self._routes if template.matches(segments)), None)
        if fitting is None:
            raise NoRoute
        # The most specific template decides alone: a method that it lacks does not fall through to
        # a wider one, whose access was not meant for this path.
        routes = [route for template, route in self._routes if template.shape == fitting.shape]
        for route in routes:
            if method in route.match.methods:
                return route
        raise WrongMethod(frozenset().union(*(route.match.methods for route in routes)))
