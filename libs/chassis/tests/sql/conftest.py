"""Databases of both kinds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import PostgresServer

from ostiary_chassis.sql import DatabaseAddress


@pytest.fixture
def on_postgres(postgres_server: PostgresServer) -> Iterator[DatabaseAddress]:
    name = postgres_server.create_database()
    yield DatabaseAddress.of("test", f"{postgres_server.url}/{name}")
    postgres_server.drop_database(name)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> DatabaseAddress:
    return DatabaseAddress.of_file("test", tmp_path / "test.db")


@pytest.fixture(params=["on_sqlite", pytest.param("on_postgres", marks=pytest.mark.docker)])
def address(request: pytest.FixtureRequest) -> DatabaseAddress:
    """Return a database that nothing was done to yet."""
    found: DatabaseAddress = request.getfixturevalue(request.param)
    return found
