"""Fresh interpreters: how one is started, with which signals and environment (thread limits); a program's first.

Nothing of this needs the rest of parmap, which takes as long to import as an interpreter to start: a program's first
call does both at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from parmap._work.place import PACKAGE
from parmap.backends._processes.line.sockets import Socket, pair

if TYPE_CHECKING:
    from parmap._calls.options import Options

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",  # of what is written in Rust, tokenizers for one
    "OPENCV_FOR_THREADS_NUM",
)


def environment(variables: Mapping[str, str], options: Options) -> dict[str, str]:
    """The program's environment, with what the options add, and limits on the threads of numeric libraries.

    A worker is sent later what changed since it began.
    """
    from parmap._work import cpus  # only now: the template needs nothing of it

    # Others may remove some meanwhile; one without a name can't be handed on.
    present = {name: text for name in variables if name and (text := variables.get(name)) is not None}
    chosen = {**present, **(options.env or {})}
    # Who chose a number for OpenMP meant all of them, which ask for it when they have none of their own.
    limit = chosen.get("OMP_NUM_THREADS", str(max(1, cpus.cpu_count() // options.workers)))
    return dict.fromkeys(_THREADS, limit) | chosen


class Newborn(NamedTuple):
    """A template that was told nothing yet."""

    pid: int
    line: Socket
    environment: dict[str, str]

    def drop(self) -> None:
        """It ends when its line does."""
        self.line.close()
        reap(self.pid)


_early: list[Newborn] = []


def take_early() -> Newborn | None:
    """The template that was started early, if nobody has taken it."""
    try:
        return _early.pop()
    except IndexError:
        return None


def newborn(environment: dict[str, str], early: Newborn | None) -> Newborn:
    """A template with this environment: *early*, if that fits."""
    if early is not None:
        if early.environment == environment:
            return early
        early.drop()
    return _born(environment)


class Early:
    """From now until it is left a template starts, for a call with these options that is about to need one."""

    def __init__(self, options: Options | None) -> None:
        if options is not None and options.backend == "processes" and hasattr(os, "posix_spawn"):
            with suppress(OSError, RuntimeError):  # no process: that is told to whoever needs a worker
                _early.append(_born(environment(os.environ, options)))

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        unneeded = take_early()
        if unneeded is not None:
            unneeded.drop()


STDERR = 2  # the last of the standard streams

_lines: WeakSet[Socket] = WeakSet()  # those to templates, both ends


def _born(environment: dict[str, str]) -> Newborn:
    ours, theirs = _line()
    _lines.update((ours, theirs))
    try:
        pid = spawn(f"template({theirs.fileno()})", [theirs.fileno()], environment)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Newborn(pid, ours, environment)


def _line() -> tuple[Socket, Socket]:
    ours, theirs = pair()
    if theirs.fileno() > STDERR:
        return ours, theirs
    with ours, theirs:  # the program has closed its streams: a new interpreter would take these for them
        return _line()


def _forget() -> None:
    """In a process made by `os.fork()`: a template is the parent's, and is heard to end only by who holds one end."""
    _early.clear()
    for line in _lines:
        line.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def reap(pid: int) -> None:
    """Collect the exit status of a template, so that it does not stay a zombie; kill it if it does not end."""
    for patience in (1.0, 1.0):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:  # SIGCHLD is ignored, or somebody waits for any child
                return
            time.sleep(0.001)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # what it imports hangs; or it is stopped


def spawn(call: str, fds: Sequence[int], environment: Mapping[str, str]) -> int:
    """Start a fresh interpreter that runs *call* of the launcher's; returns its process number.

    `posix_spawn` resets what would be inherited through `exec`: ignored and blocked signals, the process group (so that
    a terminal's Ctrl-C stays with the parent), standard input.
    """
    python = _python()
    if not python:
        raise FileNotFoundError("sys.executable does not say which interpreter to start")
    if getattr(sys, "frozen", False):
        raise OSError('a frozen program has no interpreter to start, but itself: use backend="threads" in it')
    if not hasattr(select, "poll"):
        raise OSError('eventlet has taken `select.poll` away: use backend="threads" in its programs, or gevent')
    path = [entry for entry in sys.path if type(entry) is str and "\0" not in entry]
    home = os.path.dirname(PACKAGE)
    if home not in path:
        path.append(home)
    code = f"{_BEGIN}; from {_LAUNCHER} import {call.partition('(')[0]}; {call}"
    copies: list[int] = []  # a descriptor that is duplicated onto itself stays close-on-exec, on macOS
    try:
        copies.extend(map(os.dup, fds))
        return os.posix_spawn(
            python,
            [python, *_interpreter_flags(), "-c", code, *path],  # one by one: each may have 128 KiB
            environment,
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, copy, fd) for copy, fd in zip(copies, fds, strict=True)),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),  # last: a copy may have had its number
            ],
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.Signals[f"SIG{name}"] for name in ("INT", "TERM", "CHLD", "PIPE", "HUP", "USR1", "ALRM")],
        )
    finally:
        for copy in copies:
            os.close(copy)


def _python() -> str:
    """The interpreter to start: a server that has one in it, such as uWSGI, calls itself `sys.executable`."""
    told = getattr(sys.modules.get("multiprocessing.spawn"), "get_executable", None)  # by `set_executable`
    python = os.fsdecode((told and told()) or sys.executable or "")
    if "py" in os.path.basename(python).lower():
        return python
    beside = os.path.join(sys.exec_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}")
    return beside if os.access(beside, os.X_OK) else python


def _interpreter_flags() -> list[str]:
    """The command-line flags that this interpreter runs with: `-O`, `-W`, `-X`, `-I` and the like."""
    import subprocess  # only now: it takes a millisecond

    make: Any = getattr(subprocess, "_args_from_interpreter_flags", list)
    return [*make(), "-P"]  # without a look at the working directory: some stumble over one that is gone


_LAUNCHER = f"{__package__}.launcher"
# What a module calls in parallel when it is imported starts no processes, which would import it too, and start others.
_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from parmap._work import place; place.in_worker = True"
