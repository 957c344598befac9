"""How a service's process begins: with its slow imports, which take most of a second. Imports nothing slow itself."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import the rest of a program, of which nothing is garbage, in this context.

    SIGHUP is ignored from here on, until a handler for it is set: a terminal that closes ends no service at any time.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Collections would look at some 300 000 objects several times meanwhile, an eighth of the time in all, and in each
    # pause of a service that runs.
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
