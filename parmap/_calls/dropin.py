"""What `Pool` and `Executor` share: an engine of their own, their options, and streams that keep the old promises."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from parmap._calls.checks import DEFAULTS, OPTIONS
from parmap._calls.options import Options, refuse_unknown, resolve
from parmap._engine import pools as _pools
from parmap._engine.engine import Engine
from parmap._engine.registry import own_engine
from parmap._results.batch import BatchFuture
from parmap._results.futures import Future
from parmap._results.streams import ResultStream
from parmap._results.watched import Latch
from parmap._travel.code.special.remade import fresh_ones
from parmap._travel.failure import Failure, Voice, as_raised, pass_on
from parmap._travel.text import called, shorten
from parmap._work.cpus import cpu_count
from parmap.errors import PoolClosedError, SerializationError

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S", bound=ResultStream[Any])
K = TypeVar("K")


class Owned:
    """An engine of one's own: not shared with anybody, and closed for good."""

    def __init__(self, options: Mapping[str, Any], context: Any, *, finish: bool, voice: Voice = as_raised) -> None:
        """Make the engine. *context*: of `multiprocessing`, or `None`; *finish*: at exit, finish what was submitted."""
        self.voice = voice  # how the errors of its tasks are told
        chosen = {"idle_timeout": None, **options}  # what workers have loaded stays, as long as the pool is open
        if context is not None:
            chosen.setdefault("start_method", start_method_of(context))
        settled = resolve(chosen)
        if settled.backend == "serial" and settled.initializer is not None:
            settled.initializer(*settled.initargs)  # once: there is but one worker, the caller
            settled = settled.replace(initializer=None, initargs=())
        self.options: Options = settled
        self._finish = finish
        self.engine = own_engine(settled, finish=finish)
        self._heirs: dict[Engine, Engine | None] = {}
        self._refuses = False

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return self._refuses or (self.engine is not None and self.engine.closed)

    def inherit(self) -> None:
        """In a process that was forked since, have an engine of its own from here on."""
        engine = self.engine
        if self._refuses or engine is None or not engine.closed or engine.pid == os.getpid():
            return
        made = own_engine(self.options, finish=self._finish)
        self.engine = self._heirs.setdefault(engine, made)  # the first of several threads
        if made is not None and made is not self.engine:
            made.close(wait=False)

    def refuse(self) -> None:
        """Take no more work."""
        self._refuses = True

    def submit(self, function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Future[Any]:
        """Start one task; a function that can't travel is the task's own error."""
        try:
            call = tuple(args), dict(kwargs)
        except TypeError as error:
            pass_on(error)
            message = f"args must be a tuple of arguments for {called(function)}, and kwds a dict"
            raise TypeError(f"{message}; got {shorten(args)} and {shorten(kwargs)}") from error
        return self._started(_pools.submit, function, *call, self.options)

    def submit_map(self, function: Callable[..., Any], items: Any, chunksize: int | None, *, star: bool) -> Future[Any]:
        """Start a batch whose items are all run, whatever becomes of the others."""
        options = self.with_chunksize(chunksize)
        return self._started(_pools.map_async, function, (items,), options, star=star, fail_fast=False)

    def _started(self, start: Callable[..., Future[Any]], function: Any, *call: Any, **how: bool) -> Future[Any]:
        try:
            return start(function, *call, engine=self.engine, voice=self.voice, **how)
        except SerializationError as error:
            future = BatchFuture(self.engine, None, function)
            future.voice = self.voice
            future.settle_failure(Failure(error))
            return future

    def stream(
        self, kind: type[S], function: Callable[..., Any], iterables: tuple[Any, ...], chunksize: int | None, **how: Any
    ) -> S:
        """Start a batch whose results are given as they come, by a stream of that *kind*."""
        options = self.with_chunksize(chunksize)
        made = _pools.stream(function, iterables, options, kind=kind, engine=self.engine, **how)
        assert isinstance(made, kind)  # noqa: S101 - of the kind that was asked for
        return made

    def with_chunksize(self, chunksize: int | None) -> Options:
        """The options of one batch.

        Raises:
            TypeError: it is a second iterable, as `map` of functions and of executors takes them.
        """
        if isinstance(chunksize, (list, tuple, range)):
            raise TypeError("a Pool takes one iterable: pool.starmap(function, zip(xs, ys)) for several")
        return self.options if chunksize is None else self.options.replace(chunksize=chunksize)

    def close(self, *, wait: bool = False, cancel: bool = False, told: BaseException | None = None) -> None:
        """Take no more work; finish what was submitted, or with *cancel* drop it, and stop the workers."""
        self._refuses = True
        if self.engine is not None:
            self.engine.close(wait=wait, cancel=cancel, told=told)


class OwnsWorkers:
    """What a pool and an executor have in common to those who use them."""

    _owned: Owned
    _when_closed: str
    """What is said of a call after the end."""
    _arguments: tuple[str, ...]
    """What it takes by names of its own, beside options of `parallel`."""
    _when_too_few: str
    """What is said of less than one worker."""

    def _own(self, count: Any, context: Any, given: Mapping[str, Any], options: Mapping[str, Any], **how: Any) -> None:
        """Make the engine. *count*: of workers; *given*: by an own argument each; *how*: see `Owned`."""
        if type(count) is not int:
            OPTIONS["workers"].check(self._arguments[0], count)
        known = {*DEFAULTS} - {"workers", "max_tasks_per_child"} | {*self._arguments}
        refuse_unknown(options, f"{type(self).__name__}()", known)
        if count is None:
            count = cpu_count()
        if count < 1:
            raise ValueError(self._when_too_few)
        self._owned = Owned({**options, **given, "workers": count}, context, **how)

    def warm_up(self) -> None:
        """Start the workers in the background, so that the first call finds them."""
        self._check()
        engine = self._owned.engine
        if engine is not None:
            engine.expect(None, engine.workers)

    def _check(self) -> None:
        self._owned.inherit()
        if self._owned.closed:
            raise PoolClosedError(self._when_closed)

    @property
    def _status(self) -> str:
        return "closed" if self._owned.closed else "open"

    def __repr__(self) -> str:
        options = self._owned.options
        return f"<parmap.{type(self).__name__}: {options.workers} workers, backend {options.backend!r}, {self._status}>"

    def _repr_html_(self) -> str:
        from parmap._results.screen.display import card

        options = self._owned.options
        facts = [("workers", options.workers), ("backend", options.backend), ("state", self._status)]
        return card(f"parmap.{type(self).__name__}", "", facts)


def serial_in_tasks(kind: type[K]) -> type[K]:
    """Have a function that refers to a pool, as a method to `self.pool`, find one of its own in a task."""
    make: Callable[..., object] = kind
    fresh_ones()[kind] = partial(make, 1, backend="serial")
    return kind


def start_method_of(context: Any) -> str:
    """The start method that comes closest to a context of `multiprocessing`.

    Raises:
        TypeError: it is no such context.
    """
    ask = getattr(context, "get_start_method", None)
    if ask is None:
        raise TypeError(f"the context must come from multiprocessing.get_context(), or be None; got {context!r}")
    if ask() == "spawn" or sys.platform != "linux":
        return "spawn"
    return "forkserver"  # for "fork" too: parmap never forks its caller


class InTurn(ResultStream[R_co]):
    """A stream in which the error of an item is raised in its turn, and the other items are run in spite of it."""

    goes_on = True
    ends = False

    def read_all(self) -> None:
        """Have the rest of the input run, whether or not anybody asks for the results."""
        with self._guard:
            self._input.send(self._engine, self._job)
            while not self._input.exhausted:
                self._input.read(sys.maxsize)
                self._input.send(self._engine, self._job)
            if not (self._is_safe or self._engine.backend.at_work):  # serially, who waits does it
                self._batch.on_end = (over := Latch()).set
                self._engine.wait(over)

    @property
    def _is_safe(self) -> bool:
        """Whether all of it will be run by others, or has been."""
        return self._input.exhausted and (self._engine.backend.threaded or self._batch.ended)
