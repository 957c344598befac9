"""PgBouncer between a service and PostgreSQL: sessions of one's own will do, shared ones are refused."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import free_ports, wait_until

from ostiary_chassis.settings import ConfigError
from ostiary_chassis.sql import Database, DatabaseAddress, postgres

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed"),
]

CONFIG = """
[databases]
* = host={server.name} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
{options}
"""


Release = Callable[..., Path]

#: Starts a PgBouncer with options in front of a database, and returns its address.
Pooler = Callable[[str], DatabaseAddress]


@pytest.fixture
def pooler(on_postgres: DatabaseAddress) -> Iterator[Pooler]:
    url, (port,) = on_postgres.url, free_ports(1)
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:

        def start(options: str) -> DatabaseAddress:
            users, config = Path(folder, "users"), Path(folder, "pgbouncer.ini")
            users.write_text(f'"{url.username}" "{url.password}"\n')
            config.write_text(CONFIG.format(server=on_postgres.hosts[0], port=port, users=users, options=options))
            command = ["pgbouncer", str(config)]
            if os.geteuid() == 0:
                # It does not run as root.
                Path(folder).chmod(0o755)
                command = ["setpriv", "--reuid=65534", "--clear-groups", *command]
            started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))  # noqa: S603 - our own command
            wait_until(lambda: listens(port), "PgBouncer listens")
            return DatabaseAddress.of(
                "test", f"postgresql://{url.username}:{url.password}@127.0.0.1:{port}/{url.database}"
            )

        yield start
        for process in started:
            process.terminate()
            process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "options", ["pool_mode = transaction", "pool_mode = transaction\nserver_round_robin = 1", "pool_mode = statement"]
)
async def test_a_service_that_would_share_sessions_does_not_start(
    pooler: Pooler, release: Release, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "MESSAGE_TIMEOUT", 0.5)
    database = Database(pooler(options))
    with pytest.raises(ConfigError, match="a connection pooler in between shares sessions"):
        await database.migrate(release("pass"))
    await database.close()


async def test_sessions_of_its_own_will_do(pooler: Pooler, release: Release) -> None:
    database = Database(pooler("pool_mode = session"))
    await database.migrate(release("pass"))
    assert await database.unready_reason() == ""
    await database.close()
