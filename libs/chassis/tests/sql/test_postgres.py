"""Connections that the server ends."""

import asyncio

import pytest
from databases import PostgresServer
from sqlalchemy import text

from ostiary_chassis.sql import Database, DatabaseAddress, is_unavailable

pytestmark = pytest.mark.docker

END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


async def test_a_connection_that_ends_is_an_outage_whatever_it_was_doing(
    on_postgres: DatabaseAddress, postgres_server: PostgresServer
) -> None:
    database, faults, is_over = Database(on_postgres), [], False
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER)"))

    async def use() -> None:
        while not is_over:
            try:
                async with database.write() as connection:
                    await connection.execute(text("INSERT INTO things VALUES (1)"))
            except Exception as error:  # noqa: BLE001 - it is looked at below
                faults.append(error)
            await asyncio.sleep(0)

    using = [asyncio.create_task(use()) for _ in range(12)]
    for _ in range(15):
        await asyncio.to_thread(postgres_server.execute, END_ALL.format(on_postgres.url.database))
    is_over = True
    await asyncio.gather(*using)
    assert faults
    assert [fault for fault in faults if not is_unavailable(fault)] == []
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT COUNT(*) FROM things"))).scalar_one() > 0
    await database.close()
