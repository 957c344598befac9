"""Reads the routes file, notices when it changes, and keeps the last valid version for restarted workers."""

import os
from collections.abc import Collection
from pathlib import Path

import structlog

from ostiary_chassis.settings import ConfigError, environment
from ostiary_gateway.routing import loader
from ostiary_gateway.routing.bypass_check import IndexedRoutes, prove
from ostiary_gateway.routing.collection import without_collections
from ostiary_gateway.routing.completion import RouteMemory
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.credentials import check_issuer
from ostiary_gateway.routing.loader import SETTING, parse_file
from ostiary_gateway.routing.templates import parse_template

_log = structlog.stdlib.get_logger("routes")

#: Attempts to read a file that changes while it is read; after that, the next poll reads it again.
MAX_READ_ATTEMPTS = 10

#: Identifies a version of the file: modification and change time, size, inode, device. None if there is no file.
Stamp = tuple[int, int, int, int, int] | None


class RoutesSource:
    """A routes file, and its last valid version.

    Workers keep that version in a shared file: a worker that is restarted while the routes file is invalid continues
    with what the other workers serve, rather than with what was valid when the first workers started.
    """

    def __init__(
        self, path: Path, setting: str = SETTING, reserved: Collection[str] = (), issuer: str | None = None
    ) -> None:
        """No route may have one of the `reserved` paths, besides those that the gateway always serves itself.

        Whether browser sessions are possible depends on the `issuer`.
        """
        self._path = path
        self._issuer = issuer
        self._setting = setting
        self._reserved = {parse_template(each).shape for each in reserved}
        self._memory = RouteMemory()
        self._proved: IndexedRoutes | None = None
        self._last_valid: Path | None = None
        self._stamp: Stamp = None

    def share(self, folder: Path) -> None:
        """Keep the last valid version in a folder that all workers share."""
        self._last_valid = folder / "routes.yaml"

    def has_changed(self) -> bool:
        """Return whether the file has changed since it was last read, valid or not."""
        return _stamp_of(self._path) != self._stamp

    def load(self) -> IndexedRoutes:
        """Read and validate the file. Raises ConfigError."""
        content = self._read()
        routes = self._parse(content)
        if self._last_valid is not None:
            _replace(self._last_valid, content)
        return routes

    def load_or_last(self, first: IndexedRoutes) -> IndexedRoutes:
        """Read and validate the file; if it is invalid, return the last valid version, or `first` if there is none."""
        try:
            return self.load()
        except ConfigError as error:
            _log.error("routes file rejected", error=str(error))
        if self._last_valid is None or not self._last_valid.exists():
            return first
        return self._parse(self._last_valid.read_bytes())

    def _read(self) -> bytes:
        attempts = 0
        while True:
            # Taken before reading, so that a change in between has another stamp.
            self._stamp = _stamp_of(self._path)
            content = loader.read_file(self._path, self._setting)
            attempts += 1
            if attempts == MAX_READ_ATTEMPTS or not self.has_changed():
                return content

    def _parse(self, content: bytes) -> IndexedRoutes:
        with without_collections():
            routes = parse_file(self._path, content, environment(), self._prove, self._memory)
        if self._issuer is not None:
            check_issuer(routes.file, self._issuer)
        for route in routes.file.routes:
            if route.match.template.shape in self._reserved:
                raise ConfigError(
                    f"{self._path}: route '{route.name}': OSTIARY_GATEWAY_PUBLIC_OPERATIONS reserves {route.match.path}"
                )
        self._proved = routes
        return routes

    def _prove(self, file: RoutesFile) -> IndexedRoutes:
        return prove(file, self._proved)


def load_routes(path: Path, setting: str = SETTING, issuer: str | None = None) -> RoutesFile:
    """Read and validate a routes file once. Raises ConfigError, which names the `setting`."""
    return RoutesSource(path, setting, issuer=issuer).load().file


def _stamp_of(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _replace(path: Path, content: bytes) -> None:
    """Replace a file atomically. Raises ConfigError."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        # The routes are not used either: a restarted worker could not continue with them.
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
