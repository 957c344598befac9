"""What a session's use asks of PostgreSQL."""

from datetime import UTC, datetime

import pytest
from browsers import open_browser
from sqlalchemy import event, text
from users import new_user

from ostiary_auth.domain.context import Context
from ostiary_auth.domain.sessions.session_secrets import parse
from ostiary_auth.services import Services

pytestmark = pytest.mark.parametrize(
    "template", [pytest.param("prepared_on_postgres", marks=pytest.mark.docker)], indirect=True
)


async def test_a_refresh_takes_three_statements(services: Services) -> None:
    statements: list[str] = []
    context = Context(services.clock.now())
    user = new_user(at=context.now)
    async with services.store.write() as transaction:
        await transaction.users.add(user)
        grant = await services.sessions.open(transaction, user, "app", context)
    engine = services.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    refreshed = await services.sessions.refresh(grant.refresh_token, "app", context)
    assert refreshed.refresh_token != grant.refresh_token
    # The lock, what is decided on, and all that changes.
    assert len(statements) == 3, statements


async def test_a_use_does_not_wait_until_a_disk_has_it(services: Services) -> None:
    proof = parse((await open_browser(services)).credential)
    async with services.store.write() as transaction:
        connection = transaction.sessions._connection
        await connection.execute(text("SET LOCAL synchronous_commit = on"))
        assert await transaction.sessions.use([proof], services.sessions.limits.idle, datetime.now(UTC))
        assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "off"
