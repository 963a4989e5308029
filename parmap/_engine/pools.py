"""The registry of shared pools, and the calls that run on them: what `ParallelFunction` stands on.

Functions with the same options share one pool. A pool is an engine with its backend; it is made when it is first
needed, stops its workers when nobody needs them, and ends with the interpreter, after the work that was submitted.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._core.job import Job
from parmap._engine.engine import Engine
from parmap._engine.lane import Lane
from parmap._results.async_streams import AsyncFedStream, AsyncInput, is_asynchronous
from parmap._results.batch import Assembly, Batch, BatchFuture, Input
from parmap._results.futures import Future, finish_callbacks, forget_callbacks
from parmap._results.progress import meter
from parmap._results.relay import forget as forget_output
from parmap._results.relay import relay
from parmap._results.streams import ResultStream
from parmap._travel.failure import Failure, guarded
from parmap._travel.flat import are_atoms
from parmap._travel.payload import Packed, dump
from parmap._work.run import Rules
from parmap.backends import is_executor
from parmap.backends._processes.line.copies import copies
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from parmap._calls.options import Options
    from parmap._travel.failure import Voice
    from parmap.backends.base import Backend

_engines: dict[Hashable, Engine] = {}
_private: dict[Engine, bool] = {}  # engines that no options find, and whether their work is finished at exit
_lanes: dict[Any, Lane] = {}
# Reentrant: a signal handler or a `__del__` may need a pool while its thread is making one.
_lock = threading.RLock()

_PATIENCE = 1 << 20  # bytes of results that may wait to be decoded while `map` waits for more
_LANES = 1024  # functions whose stream of tasks is remembered


def engine_of(options: Options) -> Engine:
    """The engine of the pool that these options share; made if there is none."""
    key = options.pool_key
    engine = _engines.get(key)
    if engine is not None and not engine.closed:
        return engine
    if options.backend == "serial":
        return Engine(_backend(options))
    if sys.is_finalizing():  # from a __del__: a new thread would never run, and starting it never return
        message = "no pool can be started any more: the interpreter is shutting down"
        raise PoolClosedError(message)
    with _lock:
        engine = _engines.get(key)
        if engine is None or engine.closed:
            try:
                engine = _engines[key] = Engine(_backend(options))
            except RuntimeError:  # no new threads while the interpreter shuts down: what is still called runs here
                from parmap.backends.serial import Serial

                return Engine(Serial(options))
        return engine


def own_engine(options: Options, *, finish: bool) -> Engine | None:
    """An engine that is not shared: pass it to the calls below. *finish*: at exit, finish what was submitted.

    `None` where work is done by whoever waits: such engines are made for each call, so that calls don't meet.
    """
    if options.backend == "serial":
        return None
    with _lock:
        for gone in [engine for engine in _private if engine.closed]:
            del _private[gone]
        try:
            engine = Engine(_backend(options))
        except RuntimeError as error:  # no new threads while the interpreter shuts down
            message = f"no pool can be started any more: {error}"
            raise PoolClosedError(message) from error
        _private[engine] = finish
    return engine


def _backend(options: Options) -> Backend:  # noqa: PLR0911 - one for each
    name: Any = options.backend
    if name == "processes":
        from parmap.backends._processes.pool import Processes

        return Processes(options)
    if name == "threads":
        from parmap.backends.threads import Threads

        return Threads(options)
    if name == "serial":
        from parmap.backends.serial import Serial

        return Serial(options)
    if name == "dask":
        from parmap.backends.dask import Dask

        return Dask(options)
    if name == "ray":
        from parmap.backends.ray import Ray

        return Ray(options)
    if is_executor(name):
        from parmap.backends.executor import Executors

        return Executors(options, name)
    own: Backend = name
    return own


def submit(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    *,
    engine: Engine | None = None,
) -> Future[Any]:
    """Start one task; on *engine*, if it is given, instead of the one that the options share."""
    try:
        lane = _lanes.get((function, id(options), not kwargs))
    except Exception:  # noqa: BLE001 - no hash, or one that raises
        lane = None
    if lane is None or lane.engine.closed:
        lane = _lane(function, options, keywords=bool(kwargs), engine=engine)
    driver: Engine = lane.engine
    item: Any = (args, kwargs) if kwargs else args
    future: Future[Any] = Future(lane, item)
    if driver.backend.packs and not are_atoms(item):
        try:
            future.args = dump(item)  # as it is now: what changes later is not this call's
        except Exception as error:  # noqa: BLE001 - user code may raise anything: it is this task's error
            future.settle_failure(Failure(error))
            return future
    if not (lane.direct and driver.is_at_rest and driver.backend.lend(lane.call, future, lane.mode)):
        if type(future.args) is Packed:  # nobody knows how long it waits
            future.args.keep()
        driver.post(future)
        if not driver.backend.threaded:
            driver.wait(future)
    return future


def _rules(options: Options) -> Rules:
    return Rules(options.retry_on, options.seed, options.traceback_locals)


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def _lane(function: Callable[..., Any], options: Options, *, keywords: bool, engine: Engine | None) -> Lane:
    """The lane of a function; kept under its name where what it captures can't change unseen."""
    engine = engine or engine_of(options)
    call = engine.backend.prepare(function, _rules(options))
    key: Any = (function, id(options), not keywords) if call.stable else (call, id(options), not keywords)
    lane = _lanes.get(key)
    if lane is None or lane.engine is not engine:
        lane = Lane(engine, call, options, name_of(function), keywords=keywords)
        if engine.backend.threaded:
            _lanes[key] = lane
            while len(_lanes) > _LANES:
                _lanes.pop(next(iter(_lanes)), None)
    return lane


class _Batch(NamedTuple):
    engine: Engine
    job: Job
    batch: Batch
    source: Input


def _begin(
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    star: bool,
    goes_on: bool,
    fail_fast: bool = True,
    streams: bool = False,
    engine: Engine | None,
) -> _Batch:
    """*goes_on*: an item that fails ends nothing. Else the first ends all at once; without *fail_fast*, at the end."""
    engine = engine or engine_of(options)
    call = engine.backend.prepare(function, _rules(options))
    if len(iterables) == 1 and is_asynchronous(iterables[0]) and streams:
        source: Input = AsyncInput(iterables[0], packs=engine.backend.packs)  # type: ignore[arg-type]
    else:
        source = Input(iterables, packs=engine.backend.packs)
    batch = Batch("star" if star or len(iterables) > 1 else "map", fails_late=not (goes_on or fail_fast))
    if options.progress is not False:  # a callable may be empty, too
        batch.meter = meter(options.progress, iterables, name_of(function))
    job = Job(
        call,
        batch,
        pace=call.pace,
        chunksize=options.chunksize,
        timeout=options.timeout if engine.backend.kills else None,
        retries=options.retries,
        retry_delay=options.retry_delay,
        fail_fast=fail_fast and not goes_on,
        open_end=True,
    )
    return _Batch(engine, job, batch, source)


def map(  # noqa: A001 - the name that everybody looks for
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    star: bool = False,
    return_exceptions: bool = False,
    fail_fast: bool = True,
    voice: Voice = guarded,
    engine: Engine | None = None,
) -> list[Any]:
    """The results of all items, in order. Without *fail_fast*, an error is raised when all other items have run."""
    engine, job, batch, source = _begin(
        function, iterables, options, star=star, goes_on=return_exceptions, fail_fast=fail_fast, engine=engine
    )
    assembly = Assembly(batch, return_exceptions=return_exceptions, voice=voice)
    received = 0
    try:
        while not batch.ended:
            ahead = source.count - received
            if not source.exhausted and (not source.count or ahead < 2 * job.appetite):
                size = len(source.sequence) if source.sequence is not None else 4 * job.appetite + engine.workers
                items = source.read(size)
                if source.error is not None:
                    raise voice(source.error)
                engine.extend(job, items, last=source.exhausted)
                if (
                    source.exhausted and batch.meter is None
                ):  # from here on there is nothing to do but decode, which is better done in bulk
                    batch.patience = _PATIENCE
            else:
                engine.wait(batch)
                received += assembly.take()
        return assembly.result()
    finally:
        if batch.meter is not None:
            batch.meter.close()
        if not batch.ended:  # an error, or Ctrl-C: nobody waits for the rest
            try:
                engine.cancel(job)
            except PoolClosedError:
                pass


def map_async(
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    star: bool = False,
    return_exceptions: bool = False,
    fail_fast: bool = True,
    engine: Engine | None = None,
) -> Future[list[Any]]:
    """The future of the results of all items. The input is read at once."""
    engine, job, batch, source = _begin(
        function, iterables, options, star=star, goes_on=return_exceptions, fail_fast=fail_fast, engine=engine
    )
    if source.sequence is None:
        items = source.read(sys.maxsize)
        if source.error is not None:
            raise guarded(source.error)
    else:
        items = source.sequence[:]  # the caller may change the list later
    future = BatchFuture(engine, job, name_of(function))
    assembly = Assembly(batch, return_exceptions=return_exceptions)

    progress, batch.meter = batch.meter, None
    if progress is not None:  # nobody may be waiting: it is told of like output
        batch.told = lambda done, failed: relay.put("call", (progress.count, (done, failed), b""))

    def end() -> None:
        if progress is not None:
            relay.put("call", (progress.close, (), b""))
        if batch.failure is not None:
            future.settle_failure(batch.failure)
        else:
            future.settle(assembly, 0)

    batch.on_end = end
    engine.extend(job, items, last=True)
    if not engine.backend.threaded:
        engine.wait(future)
    return future


def stream(
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    star: bool = False,
    ordered: bool = True,
    buffersize: int | None = None,
    return_exceptions: bool = False,
    engine: Engine | None = None,
    kind: type[ResultStream[Any]] = ResultStream,
) -> ResultStream[Any]:
    """The results as they come, in a stream of the given *kind*."""
    goes_on = return_exceptions or kind.goes_on
    engine, job, batch, source = _begin(
        function, iterables, options, star=star, goes_on=goes_on, streams=True, engine=engine
    )
    if isinstance(source, AsyncInput):
        kind = AsyncFedStream
    return kind(engine, job, batch, source, ordered=ordered, buffersize=buffersize, return_exceptions=return_exceptions)


def shutdown(options: Options | None = None, wait: bool = True) -> None:
    """Stop one pool, or all, after the work that was submitted."""
    with _lock:
        if options is None:
            engines = [*_engines.values(), *_private]
            _engines.clear()
            _private.clear()
            _lanes.clear()
        else:
            engine = _engines.pop(options.pool_key, None)
            engines = [] if engine is None else [engine]
    for engine in engines:
        engine.close(wait=wait)


def _at_exit() -> None:
    """Finish what was submitted, as `concurrent.futures` does; Ctrl-C ends it at once."""
    engines = [*_engines.values(), *_private]
    try:
        for engine in engines:
            engine.close(wait=True, cancel=not _private.get(engine, True))
        finish_callbacks()
    except KeyboardInterrupt:
        for engine in engines:
            engine.close(wait=True, cancel=True)
    relay.drain()


def _forget() -> None:
    """In a process made by `os.fork()`: the pools, and the threads that drive them, are the parent's."""
    global _lock  # noqa: PLW0603 - the old one may be locked for ever
    _lock = threading.RLock()
    for engine in (*_engines.values(), *_private):
        engine.abandon()
    _engines.clear()
    _private.clear()
    _lanes.clear()
    copies.forget()
    forget_callbacks()
    forget_output()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
