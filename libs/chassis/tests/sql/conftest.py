"""Databases of both kinds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from databases import PostgresServer

from ostiary_chassis.sql import DatabaseAddress

_SCRIPT = """
import sqlalchemy as sa
from alembic import op
from ostiary_chassis.migrations import create_index

revision = "{revision}"
down_revision = {down_revision!r}
{attributes}

def upgrade() -> None:
    {body}
"""

#: A release: makes a folder of scripts, each of which is a statement, with attributes after "#".
Release = Callable[..., Path]


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


@pytest.fixture
def release(tmp_path: Path) -> Release:
    def write(*bodies: str) -> Path:
        folder = tmp_path / f"release-{len(list(tmp_path.iterdir()))}"
        (folder / "versions").mkdir(parents=True)
        env = "from sqlalchemy import MetaData\nfrom ostiary_chassis import migrations\nmigrations.run(MetaData())\n"
        (folder / "env.py").write_text(env)
        for number, body in enumerate(bodies, 1):
            statement, _, attributes = body.partition("#")
            script = _SCRIPT.format(
                revision=f"{number:04}",
                down_revision=f"{number - 1:04}" if number > 1 else None,
                attributes=attributes,
                body=statement,
            )
            (folder / "versions" / f"{number:04}_script.py").write_text(script)
        return folder

    return write
