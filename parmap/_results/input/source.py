"""`Input`: the items of a call, as they are read by whoever wants the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any

from parmap._results.batch import as_sequence
from parmap._travel.failure import Voice, is_foreign
from parmap._travel.flat import are_atoms
from parmap._travel.payload import snapshot
from parmap._travel.stream import read_with_files
from parmap._travel.vocabulary import Learner
from parmap.errors import SerializationError

if TYPE_CHECKING:
    from parmap._core.job import Job
    from parmap._engine.engine import Engine
    from parmap._results.input.reader import Reader

PORTION = 0.002
"""Seconds of reading after which workers get what there is."""

_PATIENCE = 0.1  # of the time that an item took to be read: who reads on so much later loses little
_AT_FIRST = 5  # times as much may be lost, once: the first task also takes the function there


class Input:
    """The input of a batch, read piece by piece by the thread that consumes the results."""

    reader: Reader | None = None  # what reads it instead
    error: BaseException | None = None
    has_files = False  # whether the files of this machine are there for the workers that get it

    def __init__(self, iterables: tuple[Iterable[Any], ...], *, packs: bool, keeps: bool = False) -> None:
        """*keeps*: the items are wanted back as they were given."""
        self.sequence: Any = as_sequence(iterables)
        self._keeps = keeps
        if keeps and self.sequence is not None:
            self.sequence = self.sequence[:]  # the caller may change the list later
        self.exhausted: bool = False
        self.count: int = 0
        self.patience: float = 0.0  # seconds that may pass before the next item is read, if that takes long
        self._packs = packs
        self._items: Iterator[Any] = iter(())
        self._read: list[Any] = []  # what there is already, if the reading was interrupted
        self.unsent: Any = None
        self.learner: Learner = Learner()
        self._atom: type = str  # what the last atom was: the next is likely to be one, too
        if self.sequence is None:
            self._items = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)

    def read(self, size: int, seconds: float = PORTION) -> Any:
        """The next items, at most *size*; sets `exhausted` at the end, and `error` if the input raised one.

        What is no sequence is read for about so many *seconds*: workers shall not wait until all is there.

        They are in `unsent` too, so that whoever is interrupted before they are handed over finds them there.

        Raises:
            BaseException: what a signal handler raised meanwhile: no item is lost.
        """
        if self.sequence is not None:
            items = self.sequence[self.count : self.count + size]
            exhausted = self.count + size >= len(self.sequence)
        else:
            exhausted = self._read_one_by_one(max(0, size - len(self._read)), seconds)
            items = self._read
        count = self.count + len(items)
        self.unsent, self._read, self.count, self.exhausted = items, [], count, exhausted
        return items

    def outgoing(self, unsent: Any) -> Any:
        """What is to be handed over of what was read last: items that end at `count`."""
        return unsent

    def send(self, engine: Engine, job: Job) -> None:
        """Give the engine what was read; it may have that already.

        Raises:
            PoolClosedError: nobody waits for it.
        """
        if (unsent := self.unsent) is not None:  # once: another thread may close the stream meanwhile
            items = self.outgoing(unsent)
            engine.extend(job, items, last=self.exhausted, start=self.count - len(items))
            self.unsent = None

    def _read_one_by_one(self, size: int, seconds: float) -> bool:
        """Read on; true if that was the end."""
        items, packs, clock, late = self._read, self._packs, time.monotonic, False
        keep, atom, most = items.append, self._atom, len(items) + size
        self.patience = 0.0
        end = clock() + seconds
        try:
            with read_with_files(self.has_files):
                for item in islice(self._items, min(size, sys.maxsize)):
                    keep(item)
                    if packs and type(item) is not atom:
                        items[-1] = self._as_it_is(item)
                        atom = self._atom
                    if clock() > end:  # for each: a source that was quick until now may wait before every item
                        late = True
                        break
        except BaseException as error:
            foreign = is_foreign(error)
            if not foreign or getattr(self._items, "gi_frame", self) is None:  # a generator that raised is at its end
                self.error = error  # told when what came before it is delivered
            if foreign:
                raise
            return True
        if late:
            took = clock() - end  # by the last of them alone, or by all alike
            took = max(took, (took + seconds) / (size - most + len(items)))
            self.patience = _PATIENCE * took * (1 if self.count else _AT_FIRST)
        return not late and len(items) < most

    def singly(self, size: int) -> Iterator[Any]:
        """The next items, at most *size*, each when it was read."""
        with read_with_files(self.has_files):
            for item in islice(self._items, min(size, sys.maxsize)):
                sent = self._as_it_is(item) if self._packs and type(item) is not self._atom else item
                self.count += 1
                yield sent

    @property
    def must_be_read(self) -> bool:
        """Whether reading on may take long, and nobody sees to that."""
        return self.sequence is None and self.reader is None and not self.exhausted

    def left(self) -> int | None:
        """How many items are still to be read; `None` if nobody can tell."""
        if self.exhausted:
            return 0
        if self.sequence is not None:
            return max(0, len(self.sequence) - self.count)  # it may have been cut meanwhile
        left = length_hint(self._items, -1)
        return None if left < 0 else left + len(self._read)

    def fail(self, voice: Voice) -> None:
        """Raise the error of the input, if there is one, as *voice* gives it."""
        if (error := self.__dict__.pop("error", None)) is not None:  # in one step: a signal handler may close this
            try:
                raise voice(error)
            finally:
                del error  # as in `Future.result`

    def stop(self) -> None:
        """Let nobody else read on; from any thread."""
        if self.reader is not None:
            self.reader.stop()

    def let_go(self) -> None:
        """Read no more, and hold nothing of it."""
        self.exhausted = True
        self.stop()
        self._items, self._read, self.unsent, self.error = iter(()), [], None, None
        if self.sequence is not None:
            self.sequence = ()

    def _as_it_is(self, item: Any) -> Any:
        """An item that stays as it is now: a generator may hand out one object again and again, changed each time."""
        if are_atoms(item if type(item) is tuple else (item,)):
            self._atom = str if type(item) is tuple else type(item)
            return item
        try:
            sent = snapshot(item, self.learner, copies=not self._keeps)
        except SerializationError:
            return item  # fails again when its turn comes, as the error of this item
        if self._keeps and sent is not item:
            sent.item = item
        return sent
