"""The entry point of `ostiary-gateway`: what must happen before the slow imports, which take most of a second."""

import signal


def main() -> None:
    # A SIGHUP must not end a gateway that has no handler for it yet. No reload is missed: the file is read later, and a
    # change after that is noticed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from ostiary_chassis import server  # noqa: PLC0415 - see above
    from ostiary_gateway import commands  # noqa: PLC0415 - see above

    server.run("ostiary-gateway", commands.cli)
