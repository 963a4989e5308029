"""Threads of our own: started, or told why they can't be."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, TypeVar
from weakref import ref

T = TypeVar("T")

HAS_GIL = "free-threading build" not in sys.version
"""Whether one thread sees what another has done in the order in which it was done.

A free-threaded Python has a GIL at times, as while any thread loads an extension module: so it is not asked for that.
"""


class ShutdownError(RuntimeError):
    """The interpreter is shutting down, and starts no more threads: what is left to do is done by whoever is there."""


def start_thread(name: str, run: Callable[..., object], *args: Any, deaf: bool = False) -> threading.Thread:
    """Start a thread that does not keep the program from ending, nor anything of the context of whoever starts it.

    *deaf*: signals are left to other threads, so that one that the program has blocked, to wait for it, is not taken.
    Processes that such a thread starts would hear none, either: nothing of the user's may run there.

    Raises:
        ShutdownError: it is too late for that.
        RuntimeError: the system refuses one.
    """
    # From 3.14 on it would have the context of whoever starts it: of the first who needs it, where all others do, too.
    context: dict[str, Any] = {"context": Context()} if sys.version_info >= (3, 14) else {}
    thread = threading.Thread(target=run, args=args, name=name, daemon=True, **context)
    start = partial(_start_masked, thread, deaf=deaf) if hasattr(signal, "pthread_sigmask") else thread.start
    _start(name, partial(undisturbed, start))
    return thread


def _start_masked(thread: threading.Thread, *, deaf: bool) -> None:
    """Start a thread that blocks what the one blocks that starts it, unless one of them is deaf."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS if deaf else ())
    try:
        if not mask >= _SIGNALS:
            _blocked[:] = [mask]
        elif not deaf and _blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, _blocked[0])
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_blocked: list[set[Any]] = []  # by the last thread that was not deaf, and started one
_KEPT = ("SEGV", "BUS", "FPE", "ILL", "ABRT", "KILL", "STOP")  # faults of a thread itself; and what can't be blocked
_SIGNALS = signal.valid_signals() - {getattr(signal, f"SIG{name}", 0) for name in _KEPT}


def _start(name: str, start: Callable[[], object]) -> None:
    try:
        start()
    except RuntimeError as error:
        from parmap._travel.failure import pass_on

        pass_on(error)
        if sys.is_finalizing() or "shutdown" in str(error):
            raise ShutdownError(*error.args) from error
        raise RuntimeError(
            f"parmap can't start its thread {name!r}, beside the {threading.active_count()} of this process: {error}. "
            "Let some threads end, or raise the limit of threads and processes: `ulimit -u`, or that of the container"
        ) from error


def _followed(run: Callable[[], object]) -> None:
    trace = threading.gettrace()
    # As `Thread` does it: for coverage. A debugger has begun by itself, and warns of others that use `settrace`.
    if trace is not None and sys.gettrace() is None:
        sys.settrace(trace)
    run()


def undisturbed(make: Callable[[], T], *, imports: bool = False) -> T:
    """Call *make* where no signal handler runs: what it opens and starts is not lost to Ctrl-C half way.

    Nor is garbage collected there: a `__del__` that uses parmap might wait for what this thread holds meanwhile.
    *imports*: it imports modules; so it is called here if this thread is importing already, maybe one of the same.

    Raises:
        BaseException: what it raises.
    """
    # At the end of the interpreter a thread would never run. `current_thread` would leave a dummy behind where this is
    # called within itself: in a thread that the module `threading` has not heard of.
    if threading.get_ident() != threading.main_thread().ident or sys.is_finalizing():
        return make()
    if imports and _is_importing():
        return make()
    collects = gc.isenabled()
    try:
        if collects:
            _pausing.append(True)
        gc.disable()  # only now: an interrupt that comes with it must not leave it so
        return _in_a_thread(make)
    finally:
        if collects:
            gc.enable()
            _pausing.clear()


def import_whole(*names: str) -> None:
    """Import modules late, so that no signal handler and no `__del__` which needs them, too, finds half of them."""
    if not all(map(sys.modules.__contains__, names)):
        with suppress(ShutdownError):
            undisturbed(lambda: [*map(import_module, names)], imports=True)


_pausing: list[bool] = []  # whether garbage is not collected meanwhile, though it was before
_makers: set[int] = set()  # threads that others wait for, which may hold locks


def _forget() -> None:
    """In a process made by `os.fork()` they are not there, nor is who waited for them; others get their numbers."""
    _makers.clear()
    if _pausing:
        gc.enable()
        _pausing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def check_reentry() -> None:
    """Refuse a call out of what is imported for another call, whose locks it would wait for without end.

    Raises:
        RuntimeError: it is one.
    """
    if _thread.get_ident() in _makers:
        raise RuntimeError(
            "a module that parmap imports for its first call makes a call itself: the traceback shows which. Where a "
            "file of your program has the name of one of Python's modules, which it hides by that, give it another name"
        )


def _is_importing() -> bool:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the public ways read the source, too
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _in_a_thread(make: Callable[[], T]) -> T:
    made: list[T] = []
    errors: list[BaseException] = []
    done = threading.Lock()
    done.acquire()
    context = copy_context()

    def run() -> None:
        _makers.add(_thread.get_ident())
        try:
            made.append(context.run(make))
        except BaseException as error:  # noqa: BLE001 - it is raised where it belongs
            errors.append(error)
        finally:
            _makers.discard(_thread.get_ident())
            done.release()

    whole = partial(_followed, run)
    held = ref(whole)  # by the thread, until it ends
    # In one step: `Thread.start` waits in Python code, where an interrupt may turn into an error of its own.
    _start("parmap-maker", partial(_thread.start_new_thread, whole, ()))
    del whole
    while not done.acquire(timeout=1.0):
        if held() is None and done.locked():
            raise MemoryError("there was no memory for a thread of parmap's to begin")
    if errors:
        raise errors.pop()
    return made[0]
