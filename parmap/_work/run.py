"""Running the items of a chunk, one by one or in blocks, everywhere the same; `async def`; the traceback of an error.

A short item can't afford a note on the status page: such items run in blocks of about two milliseconds. If a worker
dies within a block, its items are run again one by one; if one of them is not short after all, the block is cut behind
it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence, Sized
from contextlib import nullcontext
from itertools import islice, takewhile
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from parmap._travel.failure import LoadError, note, put, told_by
from parmap._travel.pack import EACH, Pack
from parmap._travel.text import call_note, innermost
from parmap._work.outcome import Loading, Outcome, dump_to_keep
from parmap._work.page import Note
from parmap._work.per_worker import here
from parmap._work.seeds import preserved, seeded

if TYPE_CHECKING:

    class Page(Protocol):
        """Where it is noted which items run, and up to which they may: `_work.page.Page`, or the like for a thread."""

        work: Work | None

        def enter(self, number: int, index: int, length: int, now: int, /) -> None: ...
        def limit(self, number: int, /) -> int: ...


_BLOCK = 2_000_000  # nanoseconds of work in a block
_QUICK = 100_000  # nanoseconds: items that take less are run in blocks
_NEVER = 1 << 63
_CO_COROUTINE = 0x80
_LAYERS = 8  # of decorators that are looked under


class Rules(NamedTuple):
    """What a worker has to know of the options of a call."""

    retry_on: tuple[type[BaseException], ...] = (Exception,)
    seed: int | None = None
    locals: bool = False
    """Whether tracebacks show local variables."""
    accounts: bool = False
    """Whether an item is to be told with the seconds it took and the worker that ran it, beside its result."""
    keeps: bool = False
    """Whether that result is to be pickled by itself, for whoever reads it years later."""
    expected: bytes = b""
    """What the function finds in modules in the program: see `needs.readings`."""


class Terms(NamedTuple):
    """How the items of a chunk are run."""

    mode: str
    """How the function takes an item: see `Callee`."""
    start: int = -1
    """The number of the first; -1: they have none."""
    budget: float | None = None
    """Seconds after which those that have not begun are given back."""
    careful: bool = False
    """Whether they run one by one, so that it is known which one runs."""
    stop_early: bool = False
    """Whether an error ends the chunk, since it ends the whole job."""


class Callee:
    """A function, how it takes its arguments, and what to do about its errors.

    `mode` is `"map"` for `f(item)`, `"star"` for `f(*item)` and `"call"` for `f(*item[0], **item[1])`.
    """

    problem: BaseException | None = None
    """Why it can't be called."""

    apart = True
    """Whether its results, as far as is known, share nothing."""

    def __init__(self, function: Any, rules: Rules = Rules()) -> None:  # noqa: B008 - it is immutable
        self.function = function
        self.rules = rules
        self.retry_on: tuple[type[BaseException], ...] = rules.retry_on
        self.run_one: Callable[[Callable[[Any], Any], Work, Outcome], None] = _run_one
        if rules.accounts:
            self.run_one = _run_and_keep if rules.keeps else _run_and_account
        self._run = _awaited(function) if _is_coroutine(function) else function

    def retries(self, *forms: BaseException) -> bool:
        """Whether `retry_on` means an error, in one of its *forms*: as it was raised, or as it is told."""
        return any(issubclass(type(error), self._kinds(error)) for error in forms)

    def _kinds(self, error: BaseException) -> tuple[type[BaseException], ...]:
        if OSError in self.retry_on and issubclass(type(error), TimeoutError):
            from parmap.errors import TaskTimeoutError  # only now: it takes a worker milliseconds

            if isinstance(error, TaskTimeoutError):  # which is an OSError by birth only
                return tuple({*self.retry_on} - {OSError})
        return self.retry_on

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

    def add(self, mode: str, items: Iterable[Any], results: list[Any]) -> None:
        """Add the results of *items* to *results*."""
        run, append = self._run, results.append
        if mode == "map":
            for item in items:
                append(run(item))
        elif mode == "star":
            for item in items:
                append(run(*item))
        else:
            for args, kwargs in items:
                append(run(*args, **kwargs))


def _is_coroutine(function: Any) -> bool:
    """Whether it is an `async def` function, or something in it is: then a call of it may give a coroutine."""
    for _ in range(_LAYERS):
        function = innermost(function)
        for each in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - not whether it has one
            code = getattr(getattr(each, "__func__", each), "__code__", None)
            if type(code) is CodeType and code.co_flags & _CO_COROUTINE:
                return True
        function = getattr(function, "__wrapped__", None)
    return False


def _awaited(function: Any) -> Callable[..., Any]:
    """Run the coroutine that a function gives, if it does, on an event loop of its own."""

    def go(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        made = function(*args, **kwargs)  # a decorator may have run it already
        return asyncio.run(made) if isinstance(made, Coroutine) else made

    def run(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        if asyncio._get_running_loop() is None:  # noqa: SLF001 - documented, and raises nothing
            return go(*args, **kwargs)
        # The caller's loop runs in this thread, which can't run another one: serially in an `async def`.
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import copy_context

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(copy_context().run, lambda: go(*args, **kwargs)).result()

    return run


class Work:
    """The items of a run, which need no decoding, or can't fail to decode.

    A block is a list of its own: cutting it off ends the iteration over it, which has no time to ask.
    """

    first = -1
    """The number of the first of them in its batch, if they have numbers."""

    def __init__(self, values: Sequence[Any], count: int, results: list[Any]) -> None:
        self.limit: int = count
        self._values = values
        self._results = results
        self._start = 0
        self._block: list[Any] = []

    @property
    def running(self) -> int:
        """Which item runs."""
        return len(self._results)

    def one(self) -> Any:
        """The next item."""
        return self._values[len(self._results)]

    def block(self, length: int) -> Iterable[Any]:
        """The next *length* items."""
        self._start = start = self.running
        block = self._values[start : start + length]
        self._block = block if type(block) is list else list(block)
        del self._block[self.limit - start :]
        return self._block

    def cut(self) -> None:
        """Let no other item begin than the one that runs."""
        self.limit = min(self.limit, self.running + 1)
        del self._block[self.limit - self._start :]

    def last(self) -> Any:
        return self._values[len(self._results) - 1]


class _Streams(Work):
    """Items that are decoded when they are asked for; an error of the decoding is told from one of the task."""

    def __init__(self, items: Pack, count: int, results: list[Any]) -> None:
        super().__init__((), count, results)
        self._items = iter(items)
        self._begun = 0
        self._last: Any = None

    def one(self) -> Any:
        return next(self)

    def block(self, length: int) -> Iterable[Any]:
        return islice(self, length)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._begun == self.limit:
            raise StopIteration
        try:
            self._last = next(self._items)
        except BaseException as error:
            raise LoadError from error
        finally:
            self._begun += 1
        return self._last

    def last(self) -> Any:
        return self._last


def run(
    callee: Callee,
    terms: Terms,
    items: Sequence[Any] | Pack,
    count: int,
    *,
    number: int = 0,
    page: Page | None = None,
    passes: tuple[type[BaseException], ...] = (),
) -> Outcome:
    """Run up to *count* items; stop early when the time is over or the parent wants the rest back.

    `passes`: what is raised here instead of becoming the outcome of an item (Ctrl-C, where the task runs in the
    caller's own thread).
    """
    mode, start, budget, careful, stop_early = terms
    outcome = Outcome()
    results = outcome.results
    begin = now = time.monotonic_ns()
    end = begin + int(budget * 1e9) if budget is not None else _NEVER
    one = callee.one(mode, start, results)
    seeds = start >= 0 and callee.rules.seed is not None
    careful = careful or seeds or callee.rules.accounts
    block, pid = 1, 0 if passes else os.getpid()
    page = page or Note()
    page.work = work = _work(items, count, results)
    work.first = start
    with preserved() if seeds else nullcontext():
        while (index := len(results)) < work.limit:
            block = min(block, work.limit - index)
            page.enter(number, index, block, now)
            block = min(block, page.limit(number) - index)
            if block <= 0:
                break
            if block == 1:
                callee.run_one(one, work, outcome)
            else:
                _run_block(callee, mode, work, outcome, block, end if passes else _NEVER)
            if pid and pid != os.getpid():  # a task forked, and its child came back through here
                outcome.end_fork()
            if (last := len(results) - 1) in outcome.errors:
                if issubclass(type(outcome.errors[last]), passes):
                    raise outcome.errors[last]
                _tell(outcome.errors[last], callee.function, mode, work.last(), start + last if start >= 0 else -1)
                if stop_early:
                    break
            before, now = now, time.monotonic_ns()
            if now > end:
                break
            each = (now - before) // max(1, len(results) - index)
            block = 1 if careful or each > _QUICK else max(1, min(_BLOCK // max(each, 1), 2 * block + 14))
    page.work = None
    outcome.end(begin)
    return outcome


def run_task(callee: Callee, mode: str, load: Callable[[], Any], items: list[Any]) -> Outcome:
    """Run one item that has no number; *load* gives its arguments, which are added to *items*."""
    outcome = Outcome()
    begin = time.monotonic_ns()
    try:
        try:
            items.append(load())
        except BaseException as error:
            raise LoadError from error
        outcome.results.append(callee.one(mode)(items[0]))
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
        outcome.results.append(None)
        outcome.errors[0] = error
        _tell(error, callee.function, mode, items[0] if items else None, -1)
    outcome.end(begin)
    return outcome


def _work(items: Sequence[Any] | Pack, count: int, results: list[Any]) -> Work:
    if not isinstance(items, Pack):
        return Work(items, count, results)
    if items.kind != EACH:
        values = items.whole()
        if not items.problems:
            return Work(values, count, results)
    return _Streams(items, count, results)


def _run_one(one: Callable[[Any], Any], work: Work, outcome: Outcome) -> None:
    try:
        outcome.results.append(one(work.one()))
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
        outcome.errors[len(outcome.results)] = error
        outcome.results.append(None)


def _run_and_account(one: Callable[[Any], Any], work: Work, outcome: Outcome) -> None:
    begin, loaded, worker = time.monotonic_ns(), Loading.nanoseconds, here.worker
    _run_one(one, work, outcome)
    seconds = (time.monotonic_ns() - begin - (Loading.nanoseconds - loaded)) / 1e9
    outcome.results[-1] = outcome.results[-1], seconds, None if worker is None else worker.index


def _run_and_keep(one: Callable[[Any], Any], work: Work, outcome: Outcome) -> None:
    _run_and_account(one, work, outcome)
    value, *account = outcome.results[-1]
    last = len(outcome.results) - 1
    if last not in outcome.errors:
        try:
            value = dump_to_keep(value, work.first + last)
        except BaseException as error:  # noqa: BLE001 - pickling runs the user's code: its error is this item's
            value, outcome.errors[last] = None, error
    outcome.results[-1] = value, *account


def _run_block(callee: Callee, mode: str, work: Work, outcome: Outcome, length: int, end: int) -> None:
    try:
        block = work.block(length)
        if end < _NEVER:  # in the caller's own thread, where nobody else looks whether they are as short as expected
            block = takewhile(lambda _: time.monotonic_ns() <= end, block)
        callee.add(mode, block, outcome.results)
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
        outcome.errors[len(outcome.results)] = error
        outcome.results.append(None)


def _tell(error: BaseException, function: Any, mode: str, item: Any, index: int) -> None:
    """Cut the machinery off a traceback, and note which call it was."""
    trace = told_by(error, "__traceback__")
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    put(error, "__traceback__", trace)  # its class may refuse
    mode = "" if issubclass(type(error), LoadError) else mode  # then there is no item to show
    text = call_note(function, mode, item, index if index >= 0 else None)
    if trace is None and issubclass(type(error), TypeError):  # the call itself has failed, or a function in C
        if mode == "map" and type(item) is tuple:
            text += ": to have the tuple taken apart, use starmap"
        elif mode == "star" and not hasattr(type(item), "__iter__"):
            text += ": starmap takes tuples of arguments; for one argument, use map"
    note(error, text)
