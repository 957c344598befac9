"""The entry point of `ostiary-gateway`."""

from ostiary_chassis import entry


def main() -> None:
    # No reload is missed: the routes file is read later, and a change after that is noticed.
    with entry.importing():
        from ostiary_chassis import server  # noqa: PLC0415 - not before
        from ostiary_gateway import commands  # noqa: PLC0415 - not before
    server.run("ostiary-gateway", commands.cli)
