"""What has arrived of a batch, on its way out of a stream: decoded, and in order where order counts.

A signal handler may use the stream at any moment, and an exception leave it anywhere. So whatever takes time is done
first; then, between two calls, where nothing can come, the state changes, if it is still what it was.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parmap._results.batch import Arrival, Batch
    from parmap._travel.failure import Voice


class Raised:
    """The error of an item, where a value would be."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Order:
    """The arrivals of a batch."""

    def __init__(self, batch: Batch, voice: Voice, *, ordered: bool, return_exceptions: bool) -> None:
        self.parts: list[Any] = []  # what is decoded, and its turn: lists of values, and what was raised
        self._batch = batch
        self._voice = voice
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self.ready: dict[int, Arrival] = {}  # what came before its turn, under the number of its first item
        self.next = 0  # the number of the next item to look for there

    def load(self) -> bool:
        """Decode what comes next; false if it is not there."""
        ready, arrivals = self.ready, self._batch.arrivals  # another thread may close the stream: then there are others
        if self._ordered and self.next in ready:
            self._load_in_turn(ready[self.next])
        elif arrivals:
            self._receive(arrivals[0])
        else:
            return False
        return True

    def clear(self) -> None:
        """Keep nothing."""
        self.parts, self.ready = [], {}

    def _receive(self, arrival: Arrival) -> None:
        """Take an arrival from the batch; where order counts, it waits here for its turn."""
        arrivals = self._batch.arrivals
        parts = [] if self._ordered else self._decode(arrival)
        if arrivals and arrivals[0] is arrival and not self.parts:
            self._batch.moved = True
            del arrivals[0]
            if self._ordered:
                self.ready[arrival.start] = arrival
            else:
                self.parts = parts
                self._batch.hand_out(arrival)
            self._batch.took(arrival)

    def _load_in_turn(self, arrival: Arrival) -> None:
        start, ready = arrival.start, self.ready
        parts, end = self._decode(arrival), start + arrival.done
        if self.next == start and not self.parts and start in ready:
            self._batch.moved = True
            del ready[start]
            self.next, self.parts = end, parts
            self._batch.hand_out(arrival)

    def _decode(self, arrival: Arrival) -> list[Any]:
        """What is to be handed out for the items of an arrival: values in lists, and errors."""
        values, errors, problems = self._batch.decode(arrival, self._voice)
        if not (errors or problems):
            return [values]
        values = [*values]
        for place, error in (errors | problems).items():
            values[place] = error if self._return_exceptions else Raised(error)
        parts: list[Any] = []
        for are_errors, group in groupby(values, lambda value: type(value) is Raised):
            found = [*group]
            parts += found if are_errors else [found]
        return parts
