"""What a worker is, as the core sees it: its states, and the ways between them.

Everything that says what a worker may be, and become, is in this file. A move that the table doesn't have is a fault of
our own, told at once, never mended in silence.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parmap._core.job import Chunk


class State(Enum):
    """What a worker is; one that is gone is not in the table any more."""

    STARTING = "starting"  # chunks may wait in its channel, callers may not have it
    IDLE = "idle"
    LEASED = "leased"  # callers may give it single tasks: it must be taken back first
    BUSY = "busy"  # it has at least one chunk
    DOOMED = "doomed"  # it is being killed: it gets nothing more


MOVES: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.IDLE, State.BUSY, State.DOOMED}),
    State.IDLE: frozenset({State.LEASED, State.BUSY, State.DOOMED}),
    State.LEASED: frozenset({State.IDLE, State.DOOMED}),
    State.BUSY: frozenset({State.STARTING, State.IDLE, State.DOOMED}),
    State.DOOMED: frozenset(),
}
"""From which state a worker may come into which."""


class Slot:
    """A worker as the scheduler sees it."""

    def __init__(self, budget: int | None, state: State) -> None:
        self.state: State = state
        self.rest: State = state  # what it is without work: a chunk may come back before its worker has started
        self.flight: list[Chunk] = []
        self.asked_back: bool = False  # it could not be taken back from callers
        self.budget: int | None = budget  # tasks it may still be given
        self.seat: int | None = None  # its place in reports

    def move(self, state: State) -> None:
        """Come into another state.

        Raises:
            AssertionError: there is no such way.
        """
        if state is not self.state:
            assert state in MOVES[self.state], (self.state, state)  # noqa: S101 - a fault of our own
            self.state = state

    def take(self, chunk: Chunk) -> None:
        """Have one more chunk."""
        self.flight.append(chunk)
        self.move(State.BUSY)

    def let_go(self, chunk: Chunk) -> None:
        """Have a chunk no longer."""
        self.flight.remove(chunk)
        if not self.flight and self.state is State.BUSY:
            self.move(self.rest)

    def left(self, now: float) -> float:
        """Seconds for which it has work, as far as that is known: else no end of them."""
        if not self.flight:
            return 0.0
        work = sum(inf if chunk.expected is None else chunk.expected for chunk in self.flight)
        return max(0.0, work - (now - self.flight[0].sent))

    def be_ready(self) -> None:
        """Have started."""
        self.rest = State.IDLE
        if self.state is State.STARTING:
            self.move(State.IDLE)
