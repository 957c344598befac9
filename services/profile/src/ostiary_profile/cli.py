"""The entry point of `ostiary-profile`."""

from ostiary_chassis import entry


def main() -> None:
    with entry.importing():
        from ostiary_chassis import server  # noqa: PLC0415 - not before
        from ostiary_profile import program  # noqa: PLC0415 - not before
    server.run("ostiary-profile", program.cli)
