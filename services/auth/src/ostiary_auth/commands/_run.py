"""Running a command: opening the service's parts, and printing the result."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Generic, NoReturn, TypeVar

import typer
from pydantic import BaseModel

from ostiary_auth.config import AuthConfig
from ostiary_auth.domain.context import OPERATOR, Context
from ostiary_auth.domain.errors import AuthError
from ostiary_auth.services import Services
from ostiary_auth.startup import open_prepared
from ostiary_chassis import logs
from ostiary_chassis.settings import environment

T = TypeVar("T")
Key = TypeVar("Key")

#: Items per page.
_PAGE = 1000

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

Row = Mapping[str, object]


def run(work: Callable[[Services, Context], Awaitable[T]]) -> T:
    """Run `work` on the service's parts. A domain error ends the command with one line and exit code 1."""
    config = AuthConfig.load(environment())
    # Standard output is for the command's result.
    logs.configure(config.log_format, "auth", stream=sys.__stderr__)
    try:
        return asyncio.run(_run(config, work))
    except AuthError as error:
        fail(error.detail)
    except UnicodeEncodeError:
        fail("arguments and input must be valid UTF-8")


async def _run(config: AuthConfig, work: Callable[[Services, Context], Awaitable[T]]) -> T:
    services = Services(config, await open_prepared(config))
    try:
        with services.database.naming_the_setting():
            await services.follow_time()
            return await work(services, Context(services.clock.now(), OPERATOR))
    finally:
        await services.close()


async def pages_of(
    page: Callable[[Key | None, int], Awaitable[list[T]]], key: Callable[[T], Key]
) -> AsyncIterator[list[T]]:
    """Yield all pages; `key` is what the next one starts after."""
    last: Key | None = None
    while found := await page(last, _PAGE):
        yield found
        last = key(found[-1])


def fail(message: str) -> NoReturn:
    """Print one line to standard error and exit with code 1."""
    typer.echo(f"ostiary-auth: {message}", err=True)
    raise typer.Exit(1)


def show(items: Iterable[T], as_json: bool, row: Callable[[T], Row], model: Callable[[T], BaseModel]) -> None:
    """Print items: as a table of what `row` returns, or as the JSON of the admin API."""
    printer = Printer(row, model, as_json=as_json)
    printer.print(list(items))
    printer.end()


async def show_pages(
    pages: AsyncIterator[list[T]], as_json: bool, row: Callable[[T], Row], model: Callable[[T], BaseModel]
) -> None:
    """Print items like `show`, page by page, however many there are."""
    printer = Printer(row, model, as_json=as_json)
    async for page in pages:
        printer.print(page)
    printer.end()


class Printer(Generic[T]):
    """Prints pages of items. Columns are as wide as the first page needs; a longer value moves the rest of its line."""

    def __init__(self, row: Callable[[T], Row], model: Callable[[T], BaseModel], *, as_json: bool) -> None:
        self._row = row
        self._model = model
        self._as_json = as_json
        self._widths: dict[str, int] = {}

    def print(self, page: list[T]) -> None:
        if self._as_json:
            # In ASCII, so that values from users cannot control the terminal.
            _print_lines([json.dumps(self._model(item).model_dump(mode="json")) for item in page])
            return
        table = [{name: _text(value) for name, value in self._row(item).items()} for item in page]
        lines = [list(line.values()) for line in table]
        if table and not self._widths:
            self._widths = {name: max(len(name), *(len(line[name]) for line in table)) for name in table[0]}
            lines.insert(0, [name.upper().replace("_", " ") for name in self._widths])
        widths = self._widths.values()
        _print_lines(["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines])

    def end(self) -> None:
        """Print "none" if there was nothing to print, unless in JSON."""
        if not self._as_json and not self._widths:
            typer.echo("none")


def _print_lines(lines: list[str]) -> None:
    if lines:
        typer.echo("\n".join(lines))


def _text(value: object) -> str:
    """Return a value as text, without characters that control the terminal."""
    if value is None or value == ():
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return "".join(character if character.isprintable() else "?" for character in shown)
