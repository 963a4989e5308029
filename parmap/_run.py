"""Running the items of a chunk, one after the other or in blocks; the same code in processes, threads and here.

An item that takes less than a few microseconds can't afford a note on the status page: such items run in blocks of
about half a millisecond, at the speed of C. If a worker dies within a block, its items are run again one by one.
"""

from __future__ import annotations

import os
import time
from itertools import islice, starmap
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._failure import LoadError, describe
from parmap._payload import EACH, Pack
from parmap._seeds import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sized
    from typing import Protocol

    class Page(Protocol):
        """Where it is noted which items run, and up to which they may: `_page.Page`, or the like for a thread."""

        def enter(self, number: int, index: int, length: int, now: int, /) -> None: ...
        def limit(self, number: int, /) -> int: ...


_BLOCK = 500_000  # nanoseconds of work in a block
_QUICK = 20_000  # nanoseconds: items that take less are run in blocks
_CO_COROUTINE = 0x80


class Rules(NamedTuple):
    """What a worker has to know of the options of a call."""

    retry_on: tuple[type[BaseException], ...] = (Exception,)
    seed: int | None = None
    locals: bool = False
    """Whether tracebacks show local variables."""


class Callee:
    """A function, how it takes its arguments, and what to do about its errors.

    `mode` is `"map"` for `f(item)`, `"star"` for `f(*item)` and `"call"` for `f(*item[0], **item[1])`.
    """

    def __init__(self, function: Any, rules: Rules = Rules()) -> None:  # noqa: B008 - it is immutable
        self.function = function
        self.rules = rules
        self.retry_on = rules.retry_on
        plain = getattr(function, "__wrapped__", function)
        plain = getattr(plain, "func", plain)
        code = getattr(getattr(plain, "__func__", plain), "__code__", None)
        is_coroutine = type(code) is CodeType and code.co_flags & _CO_COROUTINE
        self._run = _awaited(function) if is_coroutine else function

    def one(self, mode: str, start: int = -1, done: Sized = ()) -> Callable[[Any], Any]:
        """The function of one item; the first is number *start*, if they have numbers, when none is *done*."""
        run = self._run
        if start >= 0 and self.rules.seed is not None:
            return seeded(self.one(mode), self.rules.seed, start, done)
        if mode == "map":
            return run
        if mode == "star":
            return lambda item: run(*item)
        return lambda item: run(*item[0], **item[1])

    def many(self, mode: str, items: Iterable[Any]) -> Iterator[Any]:
        """The results of *items*, lazily."""
        return starmap(self._run, items) if mode == "star" else map(self.one(mode), items)


def _awaited(function: Any) -> Callable[..., Any]:
    """Run an `async def` function on an event loop of its own."""

    def run(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return asyncio.run(function(*args, **kwargs))

    return run


class Outcome:
    """What became of the first `done` items of a chunk: a result each, or an error."""

    __slots__ = ("done", "errors", "nanoseconds", "results")

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.done = 0
        self.nanoseconds = 0


class _Loading:
    """Decode items as they are asked for; tell an error of the decoding from one of the task."""

    def __init__(self, items: Any) -> None:
        self._items = iter(items)
        self.items = self
        self.last: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            self.last = next(self._items)
        except StopIteration:
            raise
        except BaseException as error:
            raise LoadError from error
        return self.last


class _Direct:
    """Items that need no decoding, or can't fail to decode."""

    def __init__(self, items: Any, outcome: Outcome) -> None:
        self._source = items
        self._outcome = outcome
        self.items = iter(items)

    @property
    def last(self) -> Any:
        return self._source[len(self._outcome.results) - 1]


def run(
    callee: Callee,
    mode: str,
    items: Iterable[Any],
    count: int,
    *,
    number: int = 0,
    start: int = 0,
    budget: float | None = None,
    careful: bool = False,
    stop_early: bool = False,
    page: Page | None = None,
    passes: tuple[type[BaseException], ...] = (),
) -> Outcome:
    """Run up to *count* items; stop early when *budget* seconds are over or the parent wants the rest back.

    `stop_early`: an error ends the chunk, since it ends the whole job. `passes`: what is raised here instead of
    becoming the outcome of an item (Ctrl-C, where the task runs in the caller's own thread).
    """
    outcome = Outcome()
    loading: Any = _Loading(items) if isinstance(items, Pack) and items.kind == EACH else _Direct(items, outcome)
    begin = now = time.monotonic_ns()
    end = begin + int(budget * 1e9) if budget is not None else None
    results = outcome.results
    one = callee.one(mode, start, results)
    careful = careful or callee.rules.seed is not None
    pid, block = os.getpid(), 1
    while len(results) < count:
        index = len(results)
        block = min(block, count - index)
        if page is not None:
            page.enter(number, index, block, now)
            block = min(block, page.limit(number) - index)
            if block <= 0:
                break
        if block == 1:
            _run_one(one, loading.items, outcome)
        else:
            _run_block(callee.many(mode, islice(loading.items, block)), outcome, index + block)
        if page is not None and os.getpid() != pid:  # a task forked, and its child came back through here
            os._exit(0)
        if (last := len(results) - 1) in outcome.errors:
            _tell(outcome.errors[last], callee.function, mode, loading.last, start + last if start >= 0 else -1)
            if isinstance(outcome.errors[last], passes):
                raise outcome.errors[last]
            if stop_early:
                break
        before, now = now, time.monotonic_ns()
        if end is not None and now > end:
            break
        each = (now - before) // max(1, len(results) - index)
        block = 1 if careful or each > _QUICK else max(1, min(_BLOCK // max(each, 1), 2 * block + 14))
    outcome.done = len(results)
    outcome.nanoseconds = time.monotonic_ns() - begin
    return outcome


def _run_one(one: Callable[[Any], Any], items: Iterator[Any], outcome: Outcome) -> None:
    try:
        outcome.results.append(one(next(items)))
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
        outcome.errors[len(outcome.results)] = error
        outcome.results.append(None)


def _run_block(results: Iterator[Any], outcome: Outcome, end: int) -> None:
    try:
        outcome.results.extend(results)
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
        outcome.errors[len(outcome.results)] = error
        outcome.results.append(None)
        return
    if len(outcome.results) < end:  # the only way to end early without an error that is seen
        ended = StopIteration()
        ended.add_note("raised among short items that ran as one block: its value and traceback are not known")
        outcome.errors[len(outcome.results)] = ended
        outcome.results.append(None)


def _tell(error: BaseException, function: Any, mode: str, item: Any, index: int) -> None:
    """Cut the machinery off a traceback, and note which call it was."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    where = f"item {index}: " if index >= 0 else ""
    try:
        error.__traceback__ = trace
        error.add_note(f"parmap: {where}{describe(function, mode, item)}")
    except BaseException:  # noqa: BLE001, S110 - the user's class and the user's __repr__: they must not hide the error
        pass
