"""Running a command: opening the service's parts, and printing the result."""

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

#: Items per page.
_PAGE = 200

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


async def all_pages(page: Callable[[Key | None, int], Awaitable[list[T]]], key: Callable[[T], Key]) -> list[T]:
    """Return the items of all pages; `key` is what the next page starts after."""
    items: list[T] = []
    while found := await page(key(items[-1]) if items else None, _PAGE):
        items += found
    return items


def fail(message: str) -> NoReturn:
    """Print one line to standard error and exit with code 1."""
    typer.echo(f"ostiary-auth: {message}", err=True)
    raise typer.Exit(1)


def show(items: Iterable[T], as_json: bool, row: Callable[[T], Row], model: Callable[[T], BaseModel]) -> None:
    """Print items: as a table of what `row` returns, or as the JSON of the admin API."""
    if as_json:
        for item in items:
            # In ASCII, so that values from users cannot control the terminal.
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
    """Return a value as text, without characters that control the terminal."""
    if value is None or value == ():
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return "".join(character if character.isprintable() else "?" for character in shown)
