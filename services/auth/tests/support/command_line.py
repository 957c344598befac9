"""The command line, run in this process."""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import structlog
from typer.testing import CliRunner, Result
from users import new_user

from ostiary_auth import program
from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.accounts.model import User
from ostiary_auth.domain.context import Context, user_actor
from ostiary_auth.domain.oauth.model import FIRST_PARTY_CLIENT_ID
from ostiary_auth.services import Services, ServiceSecrets

T = TypeVar("T")


#: What a terminal would obey: escape sequences of seven and of eight bits, a bell, a change of direction.
ESCAPES = "\x1b[2J\x9b31m\x07\u202e"


@contextmanager
def logging_as_before() -> Iterator[None]:
    """Commands configure the logs of their process, which here is everybody's."""
    root, chatty = logging.getLogger(), map(logging.getLogger, ("alembic", "httpcore", "httpx", "uvicorn"))
    handlers, levels = root.handlers, {logger: logger.level for logger in (root, *chatty)}
    before, excepthook = structlog.get_config(), sys.excepthook
    with pytest.MonkeyPatch.context() as patch:
        # A logger that was cached would go on writing to a stream that is closed.
        configure, uncached = structlog.configure, {"cache_logger_on_first_use": False}
        patch.setattr(structlog, "configure", lambda **settings: configure(**{**settings, **uncached}))
        try:
            yield
        finally:
            configure(**before)
            sys.excepthook = excepthook
            root.handlers = handlers
            for logger, level in levels.items():
                logger.setLevel(level)


class CommandLine:
    """The command line on a database, and the service's parts on the same one."""

    def __init__(self, config: AuthConfig, own: ServiceSecrets) -> None:
        self.config = config
        self.own = own

    def run(self, *arguments: str, typed: str = "") -> Result:
        with logging_as_before():
            return CliRunner().invoke(program.cli, list(arguments), input=typed)

    def prints(self, *arguments: str, typed: str = "") -> str:
        """Run a command that succeeds, and return its standard output."""
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 0, result.output
        return result.stdout

    def rows(self, *arguments: str) -> list[Any]:
        return [json.loads(line) for line in self.prints(*arguments, "--json").splitlines()]

    def refuses(self, *arguments: str, typed: str = "") -> str:
        """Run a command that is refused in one line, and return that."""
        result = self.run(*arguments, typed=typed)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("ostiary-auth: ")
        return line.removeprefix("ostiary-auth: ")

    def do(self, work: Callable[[Services], Awaitable[T]]) -> T:
        async def run() -> T:
            services = Services(self.config, self.own)
            services.local_keys.use(await services.keys.load())
            try:
                return await work(services)
            finally:
                await services.close()

        return asyncio.run(run())

    def add_user(self, sessions: int = 0, name: str | None = None, user_agent: str | None = None) -> User:
        """Add a user who cannot log in, which saves the time to hash a password."""
        now = datetime.now(UTC)
        user = new_user(name=name, at=now)

        async def work(services: Services) -> User:
            async with services.store.write() as transaction:
                await transaction.users.add(user)
                for _ in range(sessions):
                    context = Context(now, user_actor(user.id), "203.0.113.9", user_agent)
                    await services.sessions.open(transaction, user, FIRST_PARTY_CLIENT_ID, context)
            return user

        return self.do(work)

    def execute(self, statement: Any) -> None:
        async def work(services: Services) -> None:
            async with services.database.write() as connection:
                await connection.execute(statement)

        self.do(work)
