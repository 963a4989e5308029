"""`Journal`, and what one call does with it: keys of items, what is done, code that changed, writing what gets done."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from parmap._calls.journal.digest import digest
from parmap._calls.journal.file import DONE, FAILED, connect, telling, writing
from parmap._calls.journal.identity import Identity, identify
from parmap._results.watched import Latch
from parmap._travel.failure import is_foreign
from parmap._travel.text import shorten
from parmap._work.threads import ShutdownError, start_thread
from parmap.errors import JournalError, SerializationError

if TYPE_CHECKING:
    from parmap._results.batch import Arrival

_PAUSE = 0.5  # seconds between commits: with what one takes, less than a second of work can be lost
_MOST = 64 << 20  # bytes of results that may wait for the disk

_FIND = "select value, seconds, attempts from items where run = ? and key = ? and nth = ? and state = 1"
# What is done stays done, whatever another program says.
_WRITE = """
    insert into items (run, key, nth, state, value, item, seconds, attempts) values (?, ?, ?, ?, ?, ?, ?, ?)
    on conflict do update set state = excluded.state, value = excluded.value, item = excluded.item,
        seconds = excluded.seconds, attempts = excluded.attempts where state <> 1
"""


class Journal:
    """A file in which the results of a batch are kept as they come: what ``journal=`` takes, or its path alone.

    The same call, made again, runs only what has no result there. A result is that of an item: of its content, and
    which of those with the same it is; of a function: its name, and what it is given and captures; and of a version.

    Reading a journal unpickles what is in it: use no file that somebody else may have written.

    Args:
        path: the file, on a local disk; made if it isn't there.
        key: called with an item, gives what tells it from others: for items that can't be pickled, or that change.
        version: another one is another run: all items are run anew.

    Raises:
        TypeError: an argument of the wrong type.

    Example:
        >>> import os, tempfile
        >>> from parmap import Journal, parallel
        >>> @parallel(workers=2)
        ... def area(r: float) -> float:
        ...     return 3 * r * r
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(os.path.join(folder, "areas.sqlite"), version="2")
        ...     first = area.map([1, 2], journal=journal)
        ...     area.map([1, 2, 3], journal=journal)
        [3, 12, 27]
    """

    def __init__(
        self, path: str | os.PathLike[str], key: Callable[[Any], object] | None = None, version: str = ""
    ) -> None:
        given: tuple[Any, ...] = path, key, version
        if not isinstance(given[0], (str, os.PathLike)):
            raise TypeError(f"journal must be the path of a file, or a parmap.Journal, not {path!r}")
        if not (key is None or callable(given[1])):
            raise TypeError(f"key must be a function of an item, not {key!r}")
        if not isinstance(given[2], str):
            raise TypeError(f"version must be a string, not {version!r}")
        self.path: str = os.fsdecode(path)
        self.key = key
        self.version = version

    def __repr__(self) -> str:
        return f"parmap.Journal({self.path!r}, version={self.version!r})"


class Keyed(NamedTuple):
    """An item, the form in which it is sent, and what it is to the journal."""

    item: Any
    sent: Any
    key: bytes | BaseException
    nth: int = 0


class Keeping:
    """The journal of one call."""

    def __init__(self, journal: Any, function: Any, *how: Any) -> None:
        """*how*: what makes a difference to the results, besides the function."""
        self._journal = journal if isinstance(journal, Journal) else Journal(journal)
        self._what = function, how
        self.path = os.path.abspath(self._journal.path)
        self._run: int | None = None
        self._is_new = True  # nothing can be found in it
        self._pid = 0
        self._count = 0  # items that were read
        # Not yet written; a list, which can be copied while another thread adds, with or without the GIL.
        self._done: list[tuple[Arrival, list[Keyed]]] = []
        self._bytes = 0
        self._turn = threading.RLock()
        self._over = Latch()
        self._problem: JournalError | None = None
        self._thread: threading.Thread | None = None

    def open(self, batch: object) -> None:
        """Begin, for as long as there is a *batch* that was not let go.

        Raises:
            JournalError: the file can't be used, or the function is not the one that it knows.
        """
        function, how = self._what
        identity = identify(function, *how)
        with ExitStack() as stack:
            self._writer = stack.enter_context(closing(connect(self.path)))
            self._reader = stack.enter_context(closing(connect(self.path)))
            with telling(self.path), writing(self._writer):
                self._find_run(identity)
            self._closes = stack.pop_all()
        self._pid = os.getpid()
        self._batch = ref(batch)
        try:
            atexit.register(self.end)
            self._thread = start_thread("parmap-journal", self._live)
        except ShutdownError:  # it is written at the end
            pass
        except BaseException:  # Ctrl-C: nobody else will end it
            self.end()
            raise

    def _find_run(self, identity: Identity) -> None:
        name, values, code, about = identity
        given = name, values, self._journal.version
        known = "select id, code from runs where function = ? and given = ? and version = ?"
        found = self._writer.execute(known, given).fetchone()
        if found is None:
            add = "insert into runs (function, given, version, code, about, items) values (?, ?, ?, ?, ?, 0)"
            self._run = self._writer.execute(add, (*given, code, about)).lastrowid
            return
        self._run, before = found
        if before != code:
            self._take_code(name, before, code)
        self._is_new = not self._writer.execute("select 1 from items where run = ?", (self._run,)).fetchone()

    def _take_code(self, name: str, known: str | None, code: str) -> None:
        if known is not None and known.partition(" ")[0] == code.partition(" ")[0]:
            raise JournalError(
                f"the code of {name} is not that of the results in {self._journal.path}. To run everything anew, give "
                f"another version: journal=parmap.Journal({self._journal.path!r}, version='2'). If those results are "
                f"still right: python -m parmap journal {self._journal.path} --accept {name}"
            )
        self._writer.execute("update runs set code = ? where id = ?", (code, self._run))

    def kinds(self, *, accounts: bool) -> tuple[Any, ...]:
        """What makes the batch of the call, its input, and that if it is asynchronous."""
        from parmap._calls.journal.sink import KeptAsyncInput, KeptBatch, KeptInput

        return partial(KeptBatch, self, accounts=accounts), KeptInput, KeptAsyncInput

    # items

    def key_of(self, item: Any) -> bytes | BaseException:
        """What tells an item from others; an error, if it has nothing of the kind."""
        try:
            return digest(item if self._journal.key is None else self._journal.key(item))
        except BaseException as error:
            if is_foreign(error):
                raise
            message = (
                f"the journal can't tell this item from others: {type(error).__name__}: {error}. Say what does, by "
                "journal=parmap.Journal(path, key=...)"
            )
            told = SerializationError(message)
            told.__cause__ = error
            return told

    def find(self, item: Keyed) -> tuple[bytes, float, int] | None:
        """The result of an item, if there is one, its seconds and its attempts."""
        if self._is_new:
            return None
        found: tuple[bytes, float, int] | None
        found = self._reader.execute(_FIND, (self._run, item.key, item.nth)).fetchone()
        return found

    def read(self, count: int) -> None:
        """So many items are known; waits for the disk, if too much does.

        Raises:
            JournalError: what was done could not be written.
        """
        self._count = max(self._count, count)
        if self._bytes > _MOST:
            self._commit()
        if self._problem is not None:
            raise self._problem

    # outcomes

    def add(self, arrival: Arrival, items: list[Keyed]) -> None:
        """Take the outcomes of *items*, to be written soon; never blocks."""
        self._bytes += getattr(arrival.results, "nbytes", 0)
        self._done.append((arrival, items))

    def _live(self) -> None:
        # A Ctrl-C may come on the way to `end`, too: then the batch is gone soon.
        while not self._over.wait(_PAUSE) and self._batch() is not None:
            self._commit()
        self._finish()

    def _finish(self) -> None:
        self._commit()
        with self._turn:
            self._pid = 0
            self._closes.close()
        atexit.unregister(self.end)

    def _commit(self) -> None:
        if self._pid != os.getpid():  # that of the program that this process was forked from
            return
        with self._turn:
            done = self._done[:]
            if self._problem is not None or not self._pid:
                return
            self._bytes = 0
            try:
                with telling(self.path), writing(self._writer):
                    for arrival, items in done:
                        self._writer.executemany(_WRITE, self._rows(arrival, items))
                    self._writer.execute("update runs set items = ? where id = ?", (self._count, self._run))
            except JournalError as error:
                self._problem = error
            del self._done[: len(done)]

    def _rows(self, arrival: Arrival, items: list[Keyed]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for place, item in enumerate(items[: arrival.done]):
            attempts = arrival.attempts.get(place, 1)
            if isinstance(item.key, BaseException) or not attempts:
                continue
            if place in arrival.failures:
                failure = arrival.failures[place]
                text = "".join(traceback.format_exception_only(failure.exception()))
                text = text.encode(errors="backslashreplace").decode()  # it may tell of a file with an odd name
                what: tuple[Any, ...] = FAILED, text, shorten(item.item), failure.account[0]
            else:
                value, seconds, _ = arrival.results[place]
                what = DONE, value, None, seconds
            rows.append((self._run, item.key, item.nth, *what, attempts))
        return rows

    def end(self) -> None:
        """Write down what there is, and close the file.

        Raises:
            JournalError: that failed, and nothing else did.
        """
        if self._pid != os.getpid():  # it has ended, or never began, or belongs to another process
            return
        self._over.set()
        if self._thread is threading.current_thread():  # garbage was collected there: it ends by itself
            return
        if self._thread is not None:  # which nothing interrupts
            self._thread.join()
        if self._pid:
            self._finish()
        if self._problem is not None and sys.exception() is None:
            raise self._problem
