"""The entry point of `ostiary-profile`: what must happen before the slow imports, which take most of a second."""

import signal


def main() -> None:
    # A terminal that closes ends nothing, at no time.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from ostiary_chassis import server  # noqa: PLC0415 - see above
    from ostiary_profile import program  # noqa: PLC0415 - see above

    server.run("ostiary-profile", program.cli)
