"""Running a command: open the service's parts, do the work, print the outcome."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, NoReturn, TypeVar

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

#: Items read at once.
_PAGE = 200

#: How tables are printed: for people, or each row as a JSON object in a line.
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object in each line.")]

Row = Mapping[str, object]


def run(work: Callable[[Services, Context], Awaitable[T]]) -> T:
    """Do some work on the service's parts; what it refuses ends the command with one line and exit code 1."""
    config = AuthConfig.load(environment())
    # Standard output is for the command's own.
    logs.configure(config.log_format, "auth", stream=sys.stderr)
    try:
        return asyncio.run(_run(config, work))
    except AuthError as error:
        fail(error.detail)
    except UnicodeEncodeError:
        fail("what was given is not valid UTF-8")


async def _run(config: AuthConfig, work: Callable[[Services, Context], Awaitable[T]]) -> T:
    services = Services(config, await open_prepared(config))
    try:
        return await work(services, Context(services.clock.now(), OPERATOR))
    finally:
        await services.close()


async def all_pages(page: Callable[[Key | None, int], Awaitable[list[T]]], key: Callable[[T], Key]) -> list[T]:
    """Return all items of something that is read in pages, each after the key of the last item before it."""
    items: list[T] = []
    while found := await page(key(items[-1]) if items else None, _PAGE):
        items += found
    return items


def fail(message: str) -> NoReturn:
    """End with one line on standard error and exit code 1."""
    typer.echo(f"ostiary-auth: {message}", err=True)
    raise typer.Exit(1)


def show(items: Iterable[T], as_json: bool, row: Callable[[T], Row], model: Callable[[T], BaseModel]) -> None:
    """Print items: as a table of what `row` returns, or as the JSON that the admin API answers with."""
    if as_json:
        for item in items:
            # In ASCII: what came from outside cannot write over the terminal.
            typer.echo(json.dumps(model(item).model_dump(mode="json")))
        return
    table = [{name: _text(value) for name, value in row(item).items()} for item in items]
    if not table:
        typer.echo("none")
        return
    widths = {name: max(len(name), *(len(line[name]) for line in table)) for name in table[0]}
    typer.echo("  ".join(name.upper().replace("_", " ").ljust(width) for name, width in widths.items()).rstrip())
    for line in table:
        typer.echo("  ".join(line[name].ljust(width) for name, width in widths.items()).rstrip())


def _text(value: object) -> str:
    """Return a value for people; what came from outside cannot write over the terminal."""
    if value is None or value == ():
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return "".join(character if character.isprintable() else "?" for character in shown)
