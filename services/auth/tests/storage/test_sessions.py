"""What a session's use asks of PostgreSQL."""

from datetime import UTC, datetime

import pytest
from browsers import open_browser
from sqlalchemy import text

from ostiary_auth.domain.sessions.session_secrets import parse
from ostiary_auth.services import Services


@pytest.mark.parametrize("template", [pytest.param("prepared_on_postgres", marks=pytest.mark.docker)], indirect=True)
async def test_a_use_does_not_wait_until_a_disk_has_it(services: Services) -> None:
    proof = parse((await open_browser(services)).credential)
    async with services.store.write() as transaction:
        connection = transaction.sessions._connection
        await connection.execute(text("SET LOCAL synchronous_commit = on"))
        assert await transaction.sessions.use([proof], services.sessions.limits.idle, datetime.now(UTC))
        assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "off"
