"""A batch with a journal: what is in there is never sent, and what comes goes there, too."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from parmap._calls.journal.file import telling
from parmap._calls.journal.keeping import Keeping, Keyed
from parmap._results.batch import Arrival, Decoded
from parmap._results.input.asynchronous import AsyncInput
from parmap._results.input.source import PORTION, Input
from parmap._results.outcomes import Accounts, told
from parmap._travel.failure import Voice, unloadable
from parmap._travel.tie import Tie
from parmap.errors import JournalError, SerializationError

if TYPE_CHECKING:
    from parmap._core.job import Chunk, Job

_AT_ONCE = 4096  # items that are looked up before the first of them is sent


class KeptBatch(Accounts):
    """The sink of a call with a journal."""

    def __init__(self, keeping: Keeping, mode: str, *, accounts: bool, fails_late: bool = False) -> None:
        """*accounts*: outcomes are wanted, not results."""
        super().__init__(mode, fails_late=fails_late)
        self.keeping = keeping
        self._tells = accounts

    def begin(self, engine: Any, job: Job, source: Input) -> None:
        """Open the journal."""
        assert isinstance(source, KeptInput)  # noqa: S101 - the input of such a batch is
        source.arm(engine, job, self)
        self.keeping.open(self)

    @staticmethod
    def load(items: Any) -> Any:
        """The arguments of *items*."""
        return [each.sent for each in items]

    def arrival(self, arrival: Arrival, chunk: Chunk) -> Arrival:
        """Let it go into the journal."""
        arrival = super().arrival(arrival, chunk)
        self.keeping.add(arrival, chunk.items)
        return arrival._replace(items=[each.item for each in chunk.items])

    def decode(self, arrival: Arrival, voice: Voice) -> Decoded:
        """The results of an arrival, unpickled, or its outcomes."""
        accounts, errors, problems = super(Accounts, self).decode(arrival, voice)
        accounts = [*accounts]  # those that were found are kept as they are, to be decoded again
        for place, account in enumerate(accounts):
            if account is None or place in errors:
                continue
            try:
                if isinstance(account[0], SerializationError):
                    problems[place] = SerializationError(account[0].message, item=arrival.start + place)
                    problems[place].__cause__ = account[0].__cause__
                else:
                    accounts[place] = pickle.loads(account[0]), *account[1:]
            except BaseException as error:  # noqa: BLE001 - unpickling runs the user's code
                problems[place] = unloadable(error, arrival.start + place)
            if place in problems:
                Tie(arrival.item(place)).bind(problems[place])
                accounts[place] = (None, *account[1:])
        if self._tells:
            return told(arrival, accounts, errors | problems), {}, {}
        return [None if account is None else account[0] for account in accounts], errors, problems

    def let_go(self) -> None:
        """Keep nothing that arrives, but what has arrived."""
        super().let_go()
        self.keeping.end()


class KeptInput(Input):
    """An input of which only what is not in the journal goes on."""

    _sink: KeptBatch

    def arm(self, engine: Any, job: Job, sink: KeptBatch) -> None:
        """Begin, with what is needed for it."""
        self._driver, self._work, self._sink = engine, job, sink
        self._travels, self._packs = self._packs, True  # each item is to be seen by itself
        self._counts: dict[bytes, int] = {}
        self._sifted = 0  # items up to this one
        self._last: list[Keyed] = []
        self._is_sifting = False

    def read(self, size: int, seconds: float = PORTION) -> Any:
        """The next items, not too many at once."""
        return super().read(min(size, _AT_ONCE), seconds)

    def _as_it_is(self, item: Any) -> Any:
        key = self._sink.keeping.key_of(item)
        return Keyed(item, super()._as_it_is(item) if self._travels else item, key)

    def outgoing(self, unsent: Any) -> Any:
        """Hand over what was read last, but for what is done, and for the last run of items, which is returned."""
        if self._sifted == self.count:
            return self._last
        if self._is_sifting:  # an exception came in between: nobody knows how far that had come
            raise JournalError("reading the input was interrupted: call again, and what is done isn't done again")
        self._is_sifting = True
        with telling(self._sink.keeping.path):
            last = self._sift(self.count - len(unsent), unsent)
        self._sink.keeping.read(self.count)
        self._last, self._sifted, self._is_sifting = last, self.count, False
        return last

    def _sift(self, start: int, items: Any) -> list[Keyed]:
        """Take what is done as having arrived; hand over runs of the others, but for the last."""
        run: list[Keyed] = []
        found: list[tuple[Any, tuple[Any, ...], int]] = []
        for number, each in enumerate(items, start):
            item = self._numbered(each)
            known = (item.key, None, 1) if isinstance(item.key, BaseException) else self._sink.keeping.find(item)
            if known is None:
                self._arrive(number, found)
                run.append(item)
            else:
                if run:
                    self._driver.extend(self._work, run, last=False, start=number - len(run))
                    run = []
                value, seconds, attempts = known
                found.append((item.item, (value, seconds, None), attempts))
        self._arrive(self.count, found)
        return run

    def _numbered(self, each: Any) -> Keyed:
        """An item, as which of those with the same key it is."""
        if self.sequence is not None:
            item = Keyed(each, each, self._sink.keeping.key_of(each))
        else:
            item = each if type(each) is Keyed else self._as_it_is(each)
        if isinstance(item.key, BaseException):
            return item
        nth = self._counts[item.key] = self._counts.get(item.key, -1) + 1
        return item._replace(nth=nth)

    def _arrive(self, end: int, found: list[tuple[Any, tuple[Any, ...], int]]) -> None:
        """Take the items before number *end* as having arrived."""
        if found:
            items, accounts, attempts = map(list, zip(*found, strict=True))
            tries = {place: count for place, count in enumerate(attempts) if count > 1}
            arrival = Arrival(end - len(found), len(found), accounts, {}, items, tries)
            self._sink.arrivals.append(arrival)
            self._driver.post(self._sink.fire)
            found.clear()


class KeptAsyncInput(KeptInput, AsyncInput):
    """The same, where the input is asynchronous."""
