"""The calls that run on shared pools, or on one's own: what `ParallelFunction`, `Pool` and `Executor` stand on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from parmap._engine.crews import waits_in_vain
from parmap._engine.engine import Engine
from parmap._engine.lane import Lane, job_of
from parmap._engine.registry import engine_here, engine_of
from parmap._results.batch import Assembly, Batch, BatchFuture
from parmap._results.futures import Future
from parmap._results.input.asynchronous import AsyncFedStream, AsyncInput, is_asynchronous
from parmap._results.input.reader import Reader
from parmap._results.input.source import Input
from parmap._results.outcomes import Accounts
from parmap._results.screen.progress import meter
from parmap._results.screen.relay import relay, write
from parmap._results.streams import ResultStream
from parmap._results.watched import on_event_loop
from parmap._travel.code.by_name import name_of
from parmap._travel.code.needs.search import expected_by
from parmap._travel.code.needs.slips import warn_of_slips
from parmap._travel.failure import Failure, Voice, guarded, is_foreign, note, unframed
from parmap._travel.flat import are_atoms
from parmap._travel.pack import Packed
from parmap._travel.payload import dump
from parmap._travel.stream import read_with_files
from parmap._travel.text import call_note, called, innermost, short_type
from parmap._work import place as _place
from parmap._work.report.watch import Open, Watch
from parmap._work.run import Rules
from parmap._work.surroundings import Context
from parmap._work.surroundings import current as current  # noqa: PLC0414 - whoever calls takes it from here
from parmap._work.threads import import_whole
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._calls.journal.keeping import Keeping
    from parmap._calls.options import Options
    from parmap._core.job import Job

_PATIENCE = 1 << 16  # bytes of results that may wait to be decoded while `map` waits for more


def submit(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    *,
    context: Context | None = None,
    voice: Voice = guarded,
    engine: Engine | None = None,
) -> Future[Any]:
    """Start one task; on *engine*, if it is given, instead of the one that the options share."""
    driver = engine or engine_of(options)  # first: at the interpreter's end it says that there is none
    if driver.backend.crew is not None and waits_in_vain(driver.backend):
        driver = engine_here(options)
    context = context or current()
    lane = driver.latest
    if (
        lane is None
        or lane.function() is not function
        or lane.context is not context
        or lane.options is not options
        or kwargs
        or (lane.witness is not None and not lane.witness((function, *options.retry_on)))
    ):
        lane = _lane(function, options, context, args, keywords=bool(kwargs), engine=driver)
    item: Any = (args, kwargs) if kwargs else args
    future: Future[Any] = Future(lane, item)
    if voice is not guarded:
        future.voice = voice
    if driver.backend.packs and not are_atoms(item) and not _pack(future, item, lane):
        return future
    if not (lane.direct and driver.try_quickly(lane.call, future)):
        if type(future.args) is Packed:  # nobody knows how long it waits
            future.args.keep()
        try:
            driver.post(future)
        except PoolClosedError:
            if engine is not None:
                raise
            return submit(function, args, kwargs, options, voice=voice)  # it was stopped meanwhile: it starts anew
        if not driver.backend.threaded:
            driver.wait(future)
    return future


def _pack(future: Future[Any], item: Any, lane: Lane) -> bool:
    """Pickle the arguments as they are now: what changes later is not this call's. False if they can't be."""
    backend = lane.engine.backend
    try:
        with read_with_files(backend.has_files):
            future.args = dump(item, classes=backend.item_classes(lane.call)).remember(item)
    except Exception as error:
        if is_foreign(error):
            raise
        note(error, call_note(lane.call.callee.function, lane.mode, item, None) + ": its arguments can't be sent")
        future.fail(Failure(unframed(error)))  # user code may raise anything: it is this task's error
        return False
    return True


def warm_up(function: Callable[..., Any], options: Options) -> None:
    """Start the workers of the pool that these options share, which will have to run *function*."""
    engine = engine_of(options)
    engine.expect(function, engine.workers)


def _rules(options: Options, expected: bytes = b"", *, accounts: bool = False, keeps: bool = False) -> Rules:
    return Rules(options.retry_on, options.seed, options.traceback_locals, accounts or keeps, keeps, expected)


def _lane(
    function: Callable[..., Any],
    options: Options,
    context: Context,
    args: tuple[Any, ...],
    *,
    keywords: bool,
    engine: Engine,
) -> Lane:
    """The lane of a function as it is now: the same as long as nothing that it captures has changed."""
    lanes = engine.backend.lanes
    key = id(options), keywords
    known = lanes.find(function, key)
    lane = known() if isinstance(known, ReferenceType) else known
    if lane is not None and lane.options is options:
        call = lane.call if lane.call.stable else engine.backend.prepare(function, lane.call.callee.rules)
        if call is lane.call and lane.context is context:
            _be_latest(lane, function)
            return lane
    else:
        engine.expect(function)
        expected = _expected(function, options, engine, [[each] for each in args])
        call = engine.backend.prepare(function, _rules(options, expected))
    lane = Lane(engine, call, options, function, context, keywords=keywords)
    if engine.backend.threaded:
        lanes.keep(function, key, ref(lane) if call.holds else lane)
        _be_latest(lane, function)
    return lane


def _expected(
    function: Any, options: Options, engine: Engine, iterables: Iterable[Any] = (), *, star: bool = False
) -> bytes:
    """What *function* reads in modules that workers import, for them to compare; an initializer may see to that."""
    if not engine.backend.imports or options.initializer is not None:
        return b""
    inner = innermost(function)
    plain = getattr(inner, "__func__", inner)
    if type(plain) is not FunctionType:
        return b""
    import_whole("parmap._travel.code.needs.reach", "parmap._travel.code.needs.uses")
    # What the only worker imports keeps what tasks do to it; an object goes with each call.
    if engine.workers > 1 or inner is not plain or name_of(inner) is None:
        warn_of_slips(function, iterables, star=star)
    return expected_by(plain)


def _be_latest(lane: Lane, function: Any) -> None:
    """The next task is most likely of the same function: then its lane is found in no time."""
    call = lane.call
    if call.holds or lane.mode == "call" or type(function) is not FunctionType or lane.engine.closed:
        return
    witness = None if call.stable else lane.engine.backend.witness(function, call)
    if call.stable or witness is not None:  # else what another thread has found is left to it
        lane.witness, lane.function, lane.engine.latest = witness, ref(function), lane


def _begin(
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    star: bool = False,  # each item is a tuple of arguments
    return_exceptions: bool = False,  # an item that fails ends nothing. Else the first that does
    fail_fast: bool = True,  # ends all, at once; without this, when the others have run
    goes_on: bool = False,  # nor does it then, though its error is raised in its turn
    streams: bool = False,  # the input may be asynchronous
    accounts: bool = False,  # outcomes are wanted, not results
    keeping: Keeping | None = None,  # the journal of the call
    engine: Engine | None = None,  # instead of the one that the options share
) -> tuple[Engine, Job, Batch, Input]:
    """Begin a batch: what `map`, `map_async` and `stream` take besides their own arguments is for this."""
    begun = time.monotonic()
    goes_on = goes_on or return_exceptions or accounts
    mode, fails_late = "star" if star or len(iterables) > 1 else "map", not (goes_on or fail_fast)
    kinds: tuple[Any, ...] = Accounts if accounts else Batch, Input, AsyncInput
    if keeping is not None:
        kinds = keeping.kinds(accounts=accounts)
    batch: Batch = kinds[0](mode, fails_late=fails_late)
    engine = engine or engine_of(options, batch)
    if waits_in_vain(engine.backend):
        engine = engine_here(options)
    watch = Watch(called(function), engine.backend) if Open.reports else None  # now: from here on it takes time
    fed = [each for each in iterables if is_asynchronous(each)]
    if fed and not (streams and len(iterables) == 1):
        way_out = "only imap, imap_unordered and outcomes of a parallel function read it, by itself"
        raise TypeError(f"{short_type(fed[0])} is asynchronous: {way_out}")
    reads = kinds[2] if fed else kinds[1]
    source: Input = reads(iterables, packs=engine.backend.packs, keeps=accounts)
    engine.expect(function, engine.workers if source.sequence is None else len(source.sequence))
    expected = _expected(function, options, engine, iterables, star=star)
    call = engine.backend.prepare(function, _rules(options, expected, accounts=accounts, keeps=keeping is not None))
    if options.progress is not False:  # a callable may be empty, too
        batch.meter = meter(options.progress, iterables, called(function))
    fail_fast = fail_fast and not goes_on
    job = job_of(engine, call, batch, options, current(thoroughly=True), fail_fast=fail_fast, open_end=True)
    job.chunksize, job.watch = options.chunksize, watch
    job.piles = keeping is None  # what has run and was not told, as the program ends, would run again
    job.learner.classes = source.learner.classes = engine.backend.item_classes(call)
    source.has_files = engine.backend.has_files
    batch.begin(engine, job, source)
    if options.deadline is not None:
        engine.post(partial(engine.ledger.limit, job, options.deadline, begun))
    return engine, job, batch, source


def map(  # noqa: A001 - the name that everybody looks for
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    voice: Voice = guarded,
    **how: Any,
) -> list[Any]:
    """The results of all items, in order."""
    engine, job, batch, source = _begin(function, iterables, options, **how)
    assembly = Assembly(batch, return_exceptions=how.get("return_exceptions", False), voice=voice)
    received = 0
    try:
        while not batch.ended:
            ahead = source.count - received
            if not source.exhausted and (not source.count or ahead < 2 * job.appetite):
                size = len(source.sequence) if source.sequence is not None else 4 * job.appetite + engine.workers
                source.read(size)
                source.fail(voice)
                source.send(engine, job)
                if source.exhausted and batch.meter is None:  # what is left to do is to decode, better in bulk
                    batch.patience = _PATIENCE
            else:
                engine.wait(batch)
                received += assembly.take()
        return assembly.result()
    finally:
        if batch.meter is not None:
            batch.meter.close()
        if not batch.ended:  # an error, or Ctrl-C: nobody waits for the rest
            engine.cancel(job)
        batch.let_go()


def _send_all(engine: Engine, job: Job, source: Input) -> None:
    """Read all, and let workers have each part as soon as it was read."""
    while not source.exhausted:
        source.read(sys.maxsize)
        source.fail(guarded)
        source.send(engine, job)


def map_async(
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    *,
    voice: Voice = guarded,
    **how: Any,
) -> Future[list[Any]]:
    """The future of the results of all items. The input is read here and now; where a loop runs, by a thread."""
    engine, job, batch, source = _begin(function, iterables, options, **how)
    progress, batch.meter = batch.meter, None
    apart = source.must_be_read and engine.backend.threaded and on_event_loop()
    future = BatchFuture(engine, job, function)
    future.voice = voice
    assembly = Assembly(batch, return_exceptions=how.get("return_exceptions", False))
    tell = relay.put if engine.backend.threaded else write
    if progress is not None:  # nobody may be waiting: it is told of like output
        batch.told = lambda done, failed: tell("call", (progress.count, (done, failed), b""))

    def end() -> None:
        if progress is not None:
            tell("call", (progress.close, (), b""))
        source.stop()
        failure = batch.failure
        if failure is None and source.error is not None:
            failure, source.error = Failure(source.error), None
        if failure is not None:
            future.settle_failure(failure)
        else:
            future.settle(assembly, 0)

    batch.on_end = end
    if apart:
        Reader(engine, job, source, sys.maxsize)
    else:
        try:
            _send_all(engine, job, source)
        except BaseException:  # nobody will have the future
            batch.on_end = None
            engine.cancel(job)
            if progress is not None:
                progress.close()
            raise
    if not engine.backend.threaded:
        engine.wait(future)
    return future


def stream(
    function: Callable[..., Any],
    iterables: tuple[Any, ...],
    options: Options,
    *,
    ordered: bool = True,
    buffersize: int | None = None,
    kind: type[ResultStream[Any]] = ResultStream,
    **how: Any,
) -> ResultStream[Any]:
    """The results as they come, in a stream of the given *kind*."""
    is_plain = kind is ResultStream  # others are not for event loops
    engine, job, batch, source = _begin(function, iterables, options, goes_on=kind.goes_on, streams=is_plain, **how)
    return_exceptions = how.get("return_exceptions", False)
    if isinstance(source, AsyncInput):
        kind = AsyncFedStream
    return kind(engine, job, batch, source, ordered=ordered, buffersize=buffersize, return_exceptions=return_exceptions)


if os.environ.get("PARMAP_REPORT") and not _place.in_worker:  # before anything runs: an error is told at the start
    from parmap._work.report.report import open_from_environment

    open_from_environment()
