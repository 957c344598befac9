"""States of connections and exchanges.

A state knows which states may follow it, so an illegal transition raises instead of going on with half a connection.
The modules that have states draw them in their heads, and change them in one method.
"""


class IllegalTransition(Exception):
    """A transition that a diagram does not have: a defect in this program."""


class State:
    """One state of a diagram."""

    __slots__ = ("_next", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._next: frozenset[State] = frozenset()

    def leads_to(self, *states: "State") -> None:
        """Declare which states may follow."""
        self._next = frozenset(states)

    def to(self, state: "State") -> "State":
        """Return `state`. Raises IllegalTransition if it may not follow this one."""
        if state not in self._next:
            raise IllegalTransition(f"{self.name} -> {state.name}")
        return state

    def __repr__(self) -> str:
        return self.name
