"""Appending to both logs in one statement, on PostgreSQL."""

import pytest
import sqlalchemy.exc

from ostiary.feed import Kind
from ostiary_auth.domain.context import SYSTEM, Context
from ostiary_auth.services import Services


@pytest.mark.parametrize("template", [pytest.param("prepared_on_postgres", marks=pytest.mark.docker)], indirect=True)
async def test_what_is_too_long_for_its_column_is_refused(services: Services) -> None:
    context = Context(services.clock.now(), SYSTEM)
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="too long"):
        async with services.store.queue() as transaction:
            await services.revocations.revoke(transaction, context, Kind.SUBJECT, "x" * 129)
    async with services.store.read() as transaction:
        assert await transaction.revocations.after(0, 2**62, 1) == []
