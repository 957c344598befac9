"""Where routes come from: a file that changes while the gateway runs, and while it starts."""

import os
from pathlib import Path

import structlog

from ostiary_chassis.settings import ConfigError, environment
from ostiary_gateway.routing import loader
from ostiary_gateway.routing.bypass_check import prove
from ostiary_gateway.routing.config import RoutesFile
from ostiary_gateway.routing.loader import SETTING, parse_file

_log = structlog.stdlib.get_logger("routes")

#: Readings of a file that changes while it is read; what changes still is read again at the next look.
MAX_READINGS = 10

#: What tells a file from the one that was there before.
Stamp = tuple[int, int, int, int, int] | None


class RoutesSource:
    """A routes file, and its last good version.

    Workers keep that version in a file of their own: one that is started again while the routes file is bad goes on
    with what the others serve, and not with what was there when all of them began.
    """

    def __init__(self, path: Path, setting: str = SETTING) -> None:
        """Read from `path`, which `setting` names; nothing is read yet."""
        self._path = path
        self._setting = setting
        self._kept: Path | None = None
        self._stamp: Stamp = None

    def share(self, folder: Path) -> None:
        """Keep the last good version where other workers find it."""
        self._kept = folder / "routes.yaml"

    def has_changed(self) -> bool:
        """Return whether the file is another one than that which was read last, good or bad."""
        return _stamp_of(self._path) != self._stamp

    def load(self) -> RoutesFile:
        """Read the file, and see that it can be used. Raises ConfigError."""
        content = self._read()
        routes = self._parse(content)
        if self._kept is not None:
            _replace(self._kept, content)
        return routes

    def load_or_last(self, first: RoutesFile) -> RoutesFile:
        """Read the file; if it cannot be used, return the last version that could be, which may be the `first`."""
        try:
            return self.load()
        except ConfigError as error:
            _log.error("routes not changed: the file cannot be used", error=str(error))
        if self._kept is None or not self._kept.exists():
            return first
        return self._parse(self._kept.read_bytes())

    def _read(self) -> bytes:
        """Return the file's content. The stamp is taken before: what changes later has another one."""
        readings = 0
        while True:
            self._stamp = _stamp_of(self._path)
            content = loader.read_file(self._path, self._setting)
            readings += 1
            if readings == MAX_READINGS or not self.has_changed():
                return content

    def _parse(self, content: bytes) -> RoutesFile:
        return parse_file(self._path, content, environment(), prove)


def _stamp_of(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it sees all of it. Raises ConfigError."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        # Not to be used either: a worker that is started again could not go on with it.
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
