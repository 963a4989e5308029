"""What `Pool` and `Executor` share: an engine of their own, their options, and streams that keep the old promises."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from parmap._calls.options import Options, resolve
from parmap._engine import pools as _pools
from parmap._engine.registry import own_engine
from parmap._results.batch import BatchFuture
from parmap._results.streams import ResultStream
from parmap._travel.failure import Failure, as_raised
from parmap.errors import PoolClosedError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Executor as AnyExecutor

    from parmap._calls.typed import BackendLike, BackendName, StartMethod
    from parmap._results.futures import Future
    from parmap._travel.failure import Voice

R_co = TypeVar("R_co", covariant=True)


class OwnOptions(TypedDict, total=False):
    """The options of `parallel` that a pool or an executor takes besides those of the class that it stands in for."""

    backend: BackendName | AnyExecutor | BackendLike
    timeout: float | None
    retries: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    retry_delay: float
    start_method: StartMethod
    max_memory_per_child: int | None
    preload: Iterable[str] | Literal["auto"]
    env: Mapping[str, str] | None
    idle_timeout: float | None


class Owned:
    """An engine of one's own: not shared with anybody, and closed for good."""

    voice: Voice = staticmethod(as_raised)
    """How the errors of its tasks are told."""

    def __init__(self, what: str, options: Mapping[str, Any], context: Any, *, finish: bool) -> None:
        """Make the engine. *context*: of `multiprocessing`, or `None`; *finish*: at exit, finish what was submitted."""
        chosen = {"idle_timeout": None, **options}  # what workers have loaded stays, as long as the pool is open
        if context is not None:
            chosen.setdefault("start_method", start_method_of(context))
        settled = resolve(chosen)
        if settled.backend == "serial" and settled.initializer is not None:
            settled.initializer(*settled.initargs)  # once: there is but one worker, the caller
            settled = settled.replace(initializer=None, initargs=())
        self.what = what
        self.options: Options = settled
        self.engine = own_engine(settled, finish=finish)
        self._refuses = False

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return self._refuses or (self.engine is not None and self.engine.closed)

    def refuse(self) -> None:
        """Take no more work."""
        self._refuses = True

    def check(self, problem: str) -> None:
        """Refuse work when closed.

        Raises:
            PoolClosedError: it is closed.
        """
        if self.closed:
            raise PoolClosedError(problem)

    def submit(self, function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Future[Any]:
        """Start one task; a function that can't travel is the task's own error."""
        try:
            future = _pools.submit(function, tuple(args), dict(kwargs), self.options, engine=self.engine)
        except SerializationError as error:
            return self._failed(function, error)
        future.voice = self.voice
        return future

    def submit_map(self, function: Callable[..., Any], items: Any, chunksize: int | None, *, star: bool) -> Future[Any]:
        """Start a batch whose items are all run, whatever becomes of the others."""
        options = self.with_chunksize(chunksize)
        try:
            future = _pools.map_async(function, (items,), options, star=star, fail_fast=False, engine=self.engine)
        except SerializationError as error:
            return self._failed(function, error)
        future.voice = self.voice
        return future

    def _failed(self, function: Callable[..., Any], error: BaseException) -> Future[Any]:
        future = BatchFuture(self.engine, None, getattr(function, "__qualname__", type(function).__qualname__))
        future.settle_failure(Failure(error))
        return future

    def with_chunksize(self, chunksize: int | None) -> Options:
        """The options of one batch."""
        return self.options if chunksize is None else self.options.replace(chunksize=chunksize)

    def warm_up(self) -> None:
        """Start the workers now."""
        if self.engine is not None:
            self.engine.expect(None, self.engine.workers)

    def close(self, *, wait: bool = False, cancel: bool = False, told: BaseException | None = None) -> None:
        """Take no more work; finish what was submitted, or with *cancel* drop it, and stop the workers."""
        self._refuses = True
        if self.engine is not None:
            self.engine.close(wait=wait, cancel=cancel, told=told)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<parmap.{self.what}: {self.options.workers} workers, backend {self.options.backend!r}, {state}>"

    def html(self) -> str:
        """What notebooks show."""
        from parmap._results.display import card

        state = "closed" if self.closed else "open"
        facts = [("workers", self.options.workers), ("backend", self.options.backend), ("state", state)]
        return card(f"parmap.{self.what}", "", facts)


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
        """Give the engine the rest of the input, whether or not anybody asks for the results."""
        with self._guard:
            self._input.send(self._engine, self._job)
            while not self._input.exhausted:
                self._input.read(sys.maxsize)
                self._input.send(self._engine, self._job)
