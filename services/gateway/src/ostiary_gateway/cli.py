"""The command `ostiary-gateway`: what has to be done before the rest is imported, which takes most of a second."""

import signal


def main() -> None:
    """Run the command line."""
    # A SIGHUP must not end a gateway that does not listen to it yet. What it says, the file says, too: a change that
    # comes after the file was read is noticed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from ostiary_chassis import server  # noqa: PLC0415 - see above
    from ostiary_gateway import commands  # noqa: PLC0415 - see above

    server.run("ostiary-gateway", commands.cli)
