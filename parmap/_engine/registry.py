"""The registry of engines: which functions share one, how many may idle, and how all of them end.

Functions that agree on the options of a pool (`Option.is_of_pool`) share it. A pool is an engine with its backend; it
is made when it is first needed, stops its workers when they idle (see the ledger), stops altogether when many others
have been needed since, and ends with the interpreter: after the work that was submitted, or at once if the program
failed.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import ref

from parmap import backends
from parmap._engine import crews
from parmap._engine.engine import Engine
from parmap._results.callbacks import callbacks
from parmap._results.screen.relay import relay
from parmap._results.unheard import forget_unheard, tell_unheard
from parmap._results.watched import forget_late
from parmap._work.imports import edition
from parmap._work.per_worker import here
from parmap._work.report.watch import Open
from parmap._work.threads import ShutdownError, check_reentry, undisturbed
from parmap.backends import is_executor
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._results.batch import Batch
    from parmap.backends._base import Backend

MOST_IDLE = 8
"""Shared pools that may idle; of more than these, the one that has idled longest is stopped."""

MERCY = 5.0
"""Seconds that an exit which waits for no work waits for engines and callbacks to end in good order."""

_shared: dict[Hashable, Engine] = {}
_living: dict[Engine, None] = {}  # all that have not ended, whether or not anybody can still find them
# Reentrant: a signal handler or a `__del__` may need a pool while its thread is making one.
_lock = threading.RLock()
_early: set[type] = set()  # kinds of executors that must be finished before other threads are waited for
_waited_for: list[threading.Thread] = []  # the threads that the interpreter waits for at its end


def engine_of(options: Options, batch: Batch | None = None) -> Engine:
    """The engine of the pool that these options share; made if there is none. It lives as long as *batch* goes on."""
    key = _key_of(options)
    engine = _shared.get(key)
    if batch is None and engine is not None and not _is_out_of_date(engine):
        return engine
    if options.backend == "serial":
        return Engine(_backend(options))
    if sys.is_finalizing():  # from a __del__: a new thread would never run, and starting it never return
        raise PoolClosedError("no pool can be started any more: the interpreter is shutting down")
    check_reentry()
    with _lock:
        engine = _shared.get(key)
        if engine is None or _is_out_of_date(engine):
            try:
                engine = _make(options, key, finish=True)
            except ShutdownError:  # what is still called runs here
                return engine_here(options)
            _thin_out()
        if batch is not None:
            engine.calls[ref(batch)] = None  # no WeakSet: a Ctrl-C that comes when it drops one would be lost
            for known in [*islice(engine.calls, 2)]:  # thousands may go on: a look at two lets no others pile up
                if _is_going_on(known):
                    engine.calls.move_to_end(known)
                else:
                    del engine.calls[known]
        return engine


def _is_out_of_date(engine: Engine) -> bool:
    """Whether it has ended, or its workers may have imported what was reloaded since."""
    known = engine.backend.edition
    return engine.closed or (known is not None and known != edition())


def _key_of(options: Options) -> Hashable:
    """What a pool is shared under: on a cluster, also which one it is just now."""
    return options.pool_key if options.site is None else (options.pool_key, options.site.target())


def _is_going_on(call: Callable[[], Batch | None]) -> bool:
    batch = call()
    return batch is not None and not batch.ended


def own_engine(options: Options, *, finish: bool) -> Engine | None:
    """An engine that is not shared: pass it to the calls. *finish*: at exit, finish what was submitted.

    `None` where work is done by whoever waits: such engines are made for each call, so that calls don't meet.
    """
    if options.backend == "serial":
        return None
    with _lock:
        try:
            return _make(options, None, finish=finish)
        except ShutdownError as error:
            raise PoolClosedError(f"no pool can be started any more: {error}") from error


def _share(made: Engine, key: Hashable) -> Engine:
    """Let others find an engine; if a signal handler made one while this one was being made, that is the one."""
    engine = _shared.get(key)
    if engine is not None and not _is_out_of_date(engine):
        made.close(wait=False)
        return engine
    _shared[key] = made
    if engine is not None:
        engine.replaced = True
        _end_unless_used(engine)
    return made


def _make(options: Options, key: Hashable, *, finish: bool) -> Engine:
    def make() -> Engine:
        made = Engine(_backend(options), _on_change, key=key, finish=finish)
        return made if key is None else _share(made, key)  # here: who waits for it may be interrupted

    # What a cluster's library starts may be tied to the thread that started it, which must go on to live.
    engine = undisturbed(make) if options.backend in ("processes", "threads") else make()
    if _ends_early(options) and type(options.backend) not in _early:
        _early.add(type(options.backend))
        _before_threads_end()
    return engine


def _on_change(engine: Engine) -> bool:
    """An engine begins to live, rests, or has ended; false: to be told again soon."""
    if engine.closed:
        _living.pop(engine, None)
    elif engine.idle_since is None:  # it is about to live: known before it does, whatever interrupts us now
        _living[engine] = None
    elif engine.replaced:
        _end_unless_used(engine)
    elif len(_shared) > MOST_IDLE:
        if not _lock.acquire(blocking=False):  # whoever holds it may wait for this engine
            return False
        try:
            _thin_out()
        finally:
            _lock.release()
    return True


def engine_here(options: Options) -> Engine:
    """An engine without workers: who waits for its work does it."""
    from parmap.backends._serial import Serial

    return Engine(Serial(options))


def _backend(options: Options) -> Backend:
    given: Any = options.backend
    if options.site is not None:
        return options.site.open(options, options.site.target())
    if is_executor(given):
        from parmap.backends._executor import Executors

        given = Executors(options, given)
    elif type(given) is str:
        given = getattr(backends, given.capitalize())(options)
    own: Backend = given
    return own


# --- the end of some ------------------------------------------------------------------------------------------------


def _thin_out() -> None:
    """Stop the pools that have idled longest, if many idle. If one is needed meanwhile it ends behind that work."""
    idle = [(engine.idle_since, engine) for engine in _shared.copy().values() if not _is_used(engine)]
    idle.sort(key=lambda each: each[0] or 0.0)
    for _, engine in idle[: max(0, len(idle) - MOST_IDLE)]:
        _remove(engine)
        engine.close(wait=False)


def _end_unless_used(engine: Engine) -> None:
    """Stop a pool that nobody finds any more; what goes on in it keeps its workers until it ends."""
    if not (engine.closing or _is_used(engine)):
        engine.close(wait=False)


def _is_used(engine: Engine) -> bool:
    return engine.idle_since is None or any(map(_is_going_on, [*engine.calls]))


def _remove(engine: Engine) -> None:
    """Let nobody find an engine any more."""
    if _shared.get(engine.key) is engine:
        del _shared[engine.key]


def shutdown(options: Options | None = None, wait: bool = True, *, cancel_futures: bool = False) -> None:
    """Stop one pool, or all, after the work that was submitted.

    With *cancel_futures*, what no worker has begun is cancelled: of one pool, only what belongs to these options.
    """
    with _lock:
        keys = None if options is None else (_key_of(options),)
        engines = [engine for engine in _all() if keys is None or engine.key in keys]
        for engine in engines:
            _remove(engine)
    for key in keys or list(here.keeper.prepared):  # serial calls have no pool to stop, but begin anew, too
        here.keeper.unprepare(key)
    for engine in engines:
        if cancel_futures:
            engine.cancel_waiting(None if options is None else options.owner)
        engine.close(wait=False)
    if wait:  # only now: whoever interrupts this has ended all of them
        for engine in engines:
            engine.join()


# --- the end of all -------------------------------------------------------------------------------------------------


def _all() -> list[Engine]:
    return list(_living.copy())  # a copy is made in one step, while engines come and go


def _at_exit() -> None:
    """Finish what was submitted, as `concurrent.futures` does, or drop it if the program failed; Ctrl-C ends it."""
    try:
        # Some may be alive: it was interrupted while it waited for them, and goes on without them.
        _end(_all(), drop=_has_failed() or any(thread.is_alive() for thread in _waited_for))
        forget_unheard() if _has_failed() else tell_unheard()
    finally:
        relay.drain()
        for save in Open.at_exit:
            save()


def _before_threads_end() -> None:
    """Have `_finish_executors` called before executors close, which they do when the interpreter waits for threads.

    What was registered last is called first: so this is done when an executor is known, whose own was registered.
    """
    with suppress(AttributeError, RuntimeError):  # another Python may do without; too late, it is at its end
        threading._register_atexit(_finish_executors)  # type: ignore[attr-defined]  # noqa: SLF001


def _ends_early(options: Options) -> bool:
    """Whether what it runs on closes when the interpreter waits for threads, or soon after."""
    return is_executor(options.backend) or options.site is not None


def _finish_executors() -> None:
    """Finish what executors of the program's have to do, as long as they take it."""
    main = threading.main_thread()
    _waited_for.extend(thread for thread in threading.enumerate() if not thread.daemon and thread is not main)
    if not _has_failed():
        _end([engine for engine in _all() if _ends_early(engine.backend.options)], drop=False)


def _end(engines: list[Engine], *, drop: bool) -> None:
    try:
        for engine in engines:
            engine.close(wait=False, cancel=drop or not engine.finish, hurry=True)
        if not drop:
            for engine in engines:
                engine.join()
            callbacks.join(None)
    except BaseException as error:  # Ctrl-C, or a signal handler that raises
        drop = True
        for engine in engines:
            engine.close(wait=False, cancel=True)
        if not isinstance(error, SystemExit):  # it is on its way out already
            raise
    finally:
        if drop:
            _let_go(engines)


def _let_go(engines: list[Engine]) -> None:
    """Let engines whose work was dropped end in good order, but not at any price."""
    deadline = time.monotonic() + MERCY
    with suppress(KeyboardInterrupt, SystemExit):  # one more is told by the end coming sooner
        for engine in engines:
            engine.join(deadline - time.monotonic())
        callbacks.join(deadline - time.monotonic())


def _has_failed() -> bool:
    """Whether an exception that was no SystemExit has left the main module, and ended the program by that.

    The interpreter notes what it shows a traceback of. Others do so too, as test runners for their debuggers: but only
    what has left the main module began in its first frame, below which there is none.
    """
    if sys.flags.interactive or hasattr(sys, "ps1"):
        return False
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # the former is new in Python 3.12
    trace = getattr(error, "__traceback__", None)
    if trace is None:
        return False
    first = trace.tb_frame
    return first.f_back is None and first.f_code.co_name in {"<module>", "_run_module_as_main"}


def _forget() -> None:
    """In a process made by `os.fork()`: the pools, and the threads that drive them, are the parent's."""
    global _lock  # noqa: PLW0603 - the old one may be locked for ever
    _lock = threading.RLock()
    for engine in _all():
        engine.abandon()
    _living.clear()
    _shared.clear()
    _waited_for.clear()
    callbacks.forget()
    forget_unheard()
    crews.forget()
    forget_late()
    relay.forget()
    Open.forget()


atexit.register(_at_exit)
_before_threads_end()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
