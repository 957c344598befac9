"""The entry point of `ostiary-auth`."""

from ostiary_chassis import entry


def main() -> None:
    with entry.importing():
        from ostiary_auth import program  # noqa: PLC0415 - not before
        from ostiary_chassis import server  # noqa: PLC0415 - not before
    server.run("ostiary-auth", program.cli)
