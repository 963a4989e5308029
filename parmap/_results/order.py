"""What has arrived of a batch, on its way out of a stream: decoded, and in order where order counts.

A signal handler may use the stream at any moment, and an exception leave it anywhere. So whatever takes time is done
first; then, between two calls, where nothing can come, the state changes, if it is still what it was.
"""

from __future__ import annotations

from itertools import dropwhile, groupby, takewhile
from typing import TYPE_CHECKING, Any

from parmap._results.batch import Arrival

if TYPE_CHECKING:
    from parmap._results.batch import Batch
    from parmap._travel.failure import Voice


class Raised:
    """The error of an item, where a value would be."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_MISSING = object()
"""Stands where an item has no outcome yet: it waits for another attempt."""


class Order:
    """The arrivals of a batch."""

    def __init__(self, batch: Batch, voice: Voice, *, ordered: bool, return_exceptions: bool) -> None:
        self.parts: list[Any] = []  # what is decoded, and its turn: lists of values, and what was raised
        self._batch = batch
        self._voice = voice
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        # What came before its turn, under the number of its first item: as it came, or decoded in part.
        self.ready: dict[int, Arrival | list[Any]] = {}
        self.next = 0  # the number of the next item to look for there

    def load(self) -> bool:
        """Decode what comes next; false if it is not there."""
        if self._ordered and self.next in self.ready:
            self._load_in_turn(self.ready[self.next])
        elif self._batch.arrivals:
            self._receive(self._batch.arrivals[0])
        else:
            return False
        return True

    def clear(self) -> None:
        """Keep nothing."""
        self.parts = []
        self.ready.clear()

    def _receive(self, arrival: Arrival) -> None:
        """Take an arrival from the batch; it goes on waiting here, if it is not its turn."""
        arrivals = self._batch.arrivals
        if self._ordered:
            first = 0  # items missing at its front arrive by themselves
            while first in arrival.missing:
                first += 1
            if arrivals and arrivals[0] is arrival:
                self._batch.moved = True
                del arrivals[0]
                if first < arrival.done:
                    self.ready[arrival.start + first] = arrival
                self._batch.took(arrival)
            return
        parts = [part for part in self._decode(arrival) if part is not _MISSING]
        if arrivals and arrivals[0] is arrival and not self.parts:
            self._batch.moved = True
            del arrivals[0]
            self.parts = parts
            self._batch.took(arrival)

    def _load_in_turn(self, waiting: Arrival | list[Any]) -> None:
        # What stands before the first item that is missing is handed out; that one arrives by itself, then the rest.
        start = self.next
        parts = self._decode(waiting, start - waiting.start) if isinstance(waiting, Arrival) else waiting
        parts, rest = [*takewhile(_is_there, parts)], [*dropwhile(_is_there, parts)]
        missing = len(rest)
        rest = [*dropwhile(lambda part: part is _MISSING, rest)]
        end = start + sum(map(_count, parts))
        behind = end + missing - len(rest)
        if self.next == start and not self.parts and start in self.ready and self.ready[start] is waiting:
            self._batch.moved = True
            del self.ready[start]
            if rest:
                self.ready[behind] = rest
            self.next, self.parts = end, parts

    def _decode(self, arrival: Arrival, first: int = 0) -> list[Any]:
        """What is to be handed out for the items of an arrival from place *first* on: values in lists, and errors."""
        values, errors, problems = self._batch.decode(arrival, self._voice)
        if first:
            values = values[first:]
        if not (errors or problems or arrival.missing):
            return [values] if values else []
        values = [*values]
        for place, error in (errors | problems).items():
            if place >= first:
                values[place - first] = error if self._return_exceptions else Raised(error)
        for place in arrival.missing:
            if place >= first:
                values[place - first] = _MISSING
        return _in_parts(values)


def _in_parts(entries: list[Any]) -> list[Any]:
    """The values among *entries* in lists, between what is none."""
    parts: list[Any] = []
    for are_values, group in groupby(entries, lambda entry: not (type(entry) is Raised or entry is _MISSING)):
        found = [*group]
        parts += [found] if are_values else found
    return parts


def _is_there(part: Any) -> bool:
    return part is not _MISSING


def _count(part: Any) -> int:
    return len(part) if type(part) is list else 1
