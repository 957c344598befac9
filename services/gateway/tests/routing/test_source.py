"""The source of routes: no change of the file is missed, and an invalid file restores nothing old."""

import os
from pathlib import Path

import pytest
import structlog.testing

from ostiary_chassis.settings import ConfigError
from ostiary_gateway.routing import loader
from ostiary_gateway.routing.bypass_check import IndexedRoutes
from ostiary_gateway.routing.loader import read_file
from ostiary_gateway.routing.source import MAX_READ_ATTEMPTS, RoutesSource

TEXT = """\
upstreams:
  up: {{url: "http://up:9000"}}
routes:
  - {{name: {name}, match: {{path: /path, methods: [GET]}}, upstream: up, access: {access}}}
"""


def text(name: str, access: str = "public") -> str:
    return TEXT.format(name=name, access=access)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text("first"))
    return path


def name(routes: IndexedRoutes) -> str:
    (route,) = routes.file.routes
    return route.name


class Meddler:
    """Changes the file after each reading of it, so many times."""

    def __init__(self, path: Path, times: int) -> None:
        self.readings = 0
        self._path = path
        self._times = times
        self._read = read_file

    def __call__(self, path: Path, setting: str) -> bytes:
        content = self._read(path, setting)
        self.readings += 1
        if self.readings <= self._times:
            self._path.write_text(text(f"changed-{self.readings:03}"))
        return content


def test_a_file_that_changes_during_the_read_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "read_file", Meddler(path, 1))
    source = RoutesSource(path)
    assert name(source.load()) == "changed-001"
    assert not source.has_changed()


def test_a_file_that_keeps_changing_counts_as_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meddler = Meddler(path, 1000)
    monkeypatch.setattr(loader, "read_file", meddler)
    source = RoutesSource(path)
    source.load()
    assert meddler.readings == MAX_READ_ATTEMPTS
    assert source.has_changed()


def test_a_change_after_the_read_is_noticed(path: Path) -> None:
    source = RoutesSource(path)
    source.load()
    assert not source.has_changed()
    path.write_text(text("other"))
    assert source.has_changed()
    assert name(source.load()) == "other"
    assert not source.has_changed()


def test_a_change_with_the_same_size_and_date_is_noticed(path: Path) -> None:
    """As after `cp -p` or `rsync`, in place."""
    before = path.stat()
    source = RoutesSource(path)
    source.load()
    path.write_text(text("tsrif"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    assert source.has_changed()


def test_an_invalid_file_is_not_read_again_until_it_changes(path: Path) -> None:
    source = RoutesSource(path)
    path.write_text("")
    with pytest.raises(ConfigError):
        source.load()
    assert not source.has_changed()


def test_a_worker_that_starts_later_uses_the_current_file(path: Path, tmp_path: Path) -> None:
    source = RoutesSource(path)
    first = source.load()
    path.write_text(text("protected", "authenticated"))
    source.share(tmp_path)
    assert source.load_or_last(first).file.routes[0].access == "authenticated"
    assert not source.has_changed()


def test_a_worker_that_restarts_with_an_invalid_file_uses_the_last_valid_version(path: Path, tmp_path: Path) -> None:
    first = RoutesSource(path).load()
    other = RoutesSource(path)
    other.share(tmp_path)
    path.write_text(text("protected", "authenticated"))
    other.load()
    path.write_text("routes: [")
    restarted = RoutesSource(path)
    restarted.share(tmp_path)
    with structlog.testing.capture_logs() as logged:
        assert restarted.load_or_last(first).file.routes[0].access == "authenticated"
    assert [entry["log_level"] for entry in logged] == ["error"]
    # It is reported once, and read again when it is another one.
    assert not restarted.has_changed()


def test_the_first_worker_falls_back_to_the_routes_of_the_start(path: Path, tmp_path: Path) -> None:
    first = RoutesSource(path).load()
    path.write_text("routes: [")
    source = RoutesSource(path)
    source.share(tmp_path)
    assert source.load_or_last(first) is first


def test_routes_that_cannot_be_shared_with_other_workers_are_not_used(path: Path, tmp_path: Path) -> None:
    source = RoutesSource(path)
    source.share(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot write"):
        source.load()
