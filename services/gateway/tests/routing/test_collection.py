"""Objects of replaced routes hold up nobody."""

import threading
from typing import Any

from harness import PATIENCE

from ostiary_gateway.routing.collection import free_in_pieces


class Part:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts


class Watched(Part):
    def __init__(self, freed: list[threading.Thread], is_freed: threading.Event, *parts: Any) -> None:
        super().__init__(*parts)
        self._freed, self._is_freed = freed, is_freed

    def __del__(self) -> None:
        self._freed.append(threading.current_thread())
        self._is_freed.set()


def test_parts_are_freed_in_a_thread_once_their_owner_is() -> None:
    freed: list[threading.Thread] = []
    is_freed = threading.Event()
    root = Part(Watched(freed, is_freed))
    owner = Part(root)
    free_in_pieces(owner, [root, *root.parts])
    user = owner
    del owner, root
    assert not freed
    del user
    assert is_freed.wait(PATIENCE)
    assert len(freed) == 1
    assert freed[0] is not threading.current_thread()
