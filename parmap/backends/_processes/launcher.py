"""The template: one clean process that imports `preload` once, and forks workers, or spawns them, and kills them.

It exists because the user's own process can't be forked safely once it has threads. It imports what workers need, forks
one in a millisecond, reaps them, reports exactly how each died, and kills them all when the parent ends, however it
ends. It holds no lock, waits on nothing but its control line and `SIGCHLD`, and runs no code of the user's except the
modules that it imports: those of `preload`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from parmap.backends._processes.line.channel import Channel, ChannelClosedError, not_received
from parmap.backends._processes.poller import Poller
from parmap.backends._processes.spawning import STDERR, Newborn, reap, spawn

LONGEST = 30.0
"""Seconds that modules which were guessed may take to be imported."""

GRACE = 5.0
"""Seconds that a worker has to leave by itself (its `atexit` callbacks) before it is killed."""

_ENDS = 4  # descriptors that a worker needs: the system drops those for which a process has no room

# The parent's side


class Launcher:
    """The template process, seen from the parent."""

    def __init__(
        self, born: Newborn, *, fork: bool, preload: Sequence[str], guessed: Sequence[str], argv: list[str]
    ) -> None:
        """Tell it what to import.

        *guessed*: modules that nobody asked for, but that will be of use; without them, if they do harm.
        """
        self.has_begun = False
        self.pid = born.pid
        self.environment = born.environment  # that workers begin with
        self.control = Channel(born.line)
        self.control.post("begin", fork, tuple(preload), tuple(guessed), argv)  # if it is dead already, that is heard

    def start(self, name: int, *fds: int) -> None:
        """Start a worker on its ends of channel, page, quick line and lifeline; it is called *name* from now on."""
        self.control.send("start", name, fds=fds)

    def kill(self, name: int, signum: int) -> None:
        """Let the template send a signal: only it knows that the process number still means that worker."""
        self.control.send("kill", name, int(signum))  # what travels by marshal is a plain number, not an enum

    def close(self, lines: Mapping[int, Callable[[], bool]]) -> None:
        """Wait until the template has ended, after its workers; they have `GRACE` seconds.

        *lines*: descriptors of what may be heard meanwhile, and what hears it; false: it has ended.
        """
        with suppress(ChannelClosedError):
            self.control.send("stop")
            self._wait_until_gone(lines)
        self.control.close()
        reap(self.pid)

    def _wait_until_gone(self, lines: Mapping[int, Callable[[], bool]]) -> None:
        deadline = time.monotonic() + GRACE + 1
        poller = select.poll()  # `select` itself knows of no descriptor beyond 1,023
        for fd in (self.control.sock.fileno(), *lines):
            poller.register(fd, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            for fd, _ in poller.poll(left * 1000):
                if fd in lines and not lines[fd]():
                    poller.unregister(fd)
            while self.control.poll() is not None:
                pass


# The template's side


def template(control_fd: int) -> NoReturn:
    """Be the template until the parent ends the line, or itself."""
    _own([control_fd])
    itself = _Template(Channel(socket.socket(fileno=control_fd)))
    itself.run()
    os._exit(0)  # with the socket still held: one that is collected open is warned of, under -X dev


def _own(fds: Sequence[int]) -> None:
    """Let *fds* be of this process alone, and close all else that was inherited but the standard streams.

    Nobody waits for an end of file that we hold open. What this interpreter has opened itself, as it began, it goes on
    using: its files are told by not being inheritable.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= STDERR:  # closed in the program: not to be taken by our own
        os.set_inheritable(spare, True)
    os.close(spare)
    for fd in fds:
        os.set_inheritable(fd, False)
    try:
        opened = [*map(int, os.listdir("/dev/fd"))]  # not all that there may be: in a container, a billion
    except OSError:
        opened = [*range(os.sysconf("SC_OPEN_MAX"))]
    for fd in opened:
        with suppress(OSError):  # that of the list itself
            if fd > STDERR and os.get_inheritable(fd):
                os.close(fd)


class _Template:
    def __init__(self, control: Channel) -> None:
        self._control = control
        self._workers: dict[int, int] = {}  # name -> process number
        self._fork = True
        self._stop_at: float | None = None
        self._poller = Poller()
        self._poller.add(control.sock.fileno(), control)
        self._heed_signals()

    def _heed_signals(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._poller.wake_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def run(self) -> None:
        with suppress(ChannelClosedError):  # the parent is gone
            while self._stop_at is None or self._workers:
                if self._stop_at is not None and time.monotonic() > self._stop_at:
                    break
                self._poller.wait(None if self._stop_at is None else 0.05)
                while (message := self._control.poll()) is not None:
                    getattr(self, "_" + message.kind)(*message.fields, *message.fds)
                self._collect()
                # Never waited for: the parent may be sending, and not listen before that is read.
                self._poller.want_write(self._control.sock.fileno(), self._control, on=not self._control.flush())
        for pid in self._workers.values():
            kill_group(pid, signal.SIGKILL)

    # what the parent says

    def _kill(self, name: int, signum: int) -> None:
        if name in self._workers and not kill_group(self._workers[name], signum):
            self._bury(name, None)  # as in `_collect`

    def _stop(self) -> None:
        self._stop_at = time.monotonic() + GRACE

    def _begin(self, fork: bool, preload: Sequence[str], guessed: Sequence[str], argv: list[str]) -> None:
        self._fork = fork
        self._preload = preload
        sys.argv[:] = argv
        if not fork:
            return
        # What the template has imported, no worker has to.
        self._problem = import_all(["parmap.backends._processes.child.serve", *preload])
        _try_to_import(guessed)
        self._heed_signals()  # the modules may have chosen otherwise
        self._control.post("begun")
        gc.collect()
        gc.freeze()  # pages that the collector never touches stay shared with the workers

    def _start(self, name: int, *fds: int) -> None:
        try:
            if len(fds) < _ENDS:
                raise not_received("its lines")
            pid = self._forked(*fds) if self._fork else spawn(f"worker({fds!r}, {self._preload!r})", fds, os.environ)
            self._workers[name] = pid
        except (OSError, ValueError) as error:
            self._control.post("failed", name, str(error))
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._control.post("started", name, pid)

    def _forked(self, *fds: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._become_worker(*fds)
            except BaseException as error:  # noqa: BLE001 - there may be no memory for it
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                os._exit(1)
        _lead_group(pid)
        return pid

    def _become_worker(self, *fds: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _lead_group(0)
        self._control.sock.close()
        self._poller.close()
        gc.enable()
        from parmap.backends._processes.child.serve import serve

        serve(fds, self._problem)

    def _collect(self) -> None:
        """Report the dead."""
        while self._workers:
            try:
                pid, status = _reap_next()
            except ChildProcessError:  # a thread of a preloaded module has reaped them all
                for name in [*self._workers]:
                    self._bury(name, None)
                return
            if not pid:
                return
            for name in [name for name, each in self._workers.items() if each == pid]:
                self._bury(name, os.waitstatus_to_exitcode(status))

    def _bury(self, name: int, exitcode: int | None) -> None:
        del self._workers[name]
        self._control.post("exited", name, exitcode)


def worker(fds: tuple[int, ...], preload: Sequence[str]) -> NoReturn:
    """Be a spawned worker."""
    from parmap.backends._processes.child.serve import serve

    _own(fds)
    serve(fds, import_all(preload))


def import_all(modules: Sequence[str]) -> str:
    """Import modules; returns what went wrong, or an empty string."""
    import importlib

    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything; the parent tells the user
            return f"preload: can't import {module!r}: {type(error).__name__}: {error}"
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # what the module has put there, or closed
                    stream.flush()  # what it printed: each fork would print it again, and none at its end
    return ""


def _try_to_import(modules: Sequence[str]) -> None:
    """Import modules; end this process, for another to do without, if that takes long or starts a thread."""
    if not modules:
        return
    # Not by faulthandler's timer, which is a thread, and may be there still when it has been cancelled.
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    for module in modules:
        import_all([module])  # its error comes up again where it is used
    signal.setitimer(signal.ITIMER_REAL, 0)
    if _count_threads() > 1:
        os._exit(0)
    import warnings

    warnings.simplefilter("ignore")  # of forks with an allocator's thread, Python warns; workers have their own filters


def _count_threads() -> int:
    """How many threads a fork would leave behind, but for what looks after itself there: see `_ALLOCATOR`."""
    try:
        return sum(_name_of(thread) != _ALLOCATOR for thread in os.listdir("/proc/self/task"))
    except OSError:  # no such thing on this system
        import threading

        return threading.active_count()


_ALLOCATOR = b"jemalloc_bg_thd"
"""The thread that gives memory back, in all that brings jemalloc along, as pyarrow, and so pandas. Forks are announced
to jemalloc, as to every allocator, and it does without that thread in them."""


def _name_of(thread: str) -> bytes:
    try:
        with open(f"/proc/self/task/{thread}/comm", "rb") as file:
            return file.read().strip()
    except OSError:  # it has just ended
        return b""


def _reap_next() -> tuple[int, int]:
    """Reap one that is dead, and sweep its process group if it ended badly; its number, or 0, and its status."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        pid, status = os.waitpid(-1, os.WNOHANG)
        if status:
            kill_group(pid, signal.SIGKILL)
        return pid, status
    info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return 0, 0
    if info.si_code != os.CLD_EXITED or info.si_status:
        kill_group(info.si_pid, signal.SIGKILL)  # before it is reaped, while the number is still theirs
    return os.waitpid(info.si_pid, 0)


def _lead_group(pid: int) -> None:
    """Make a worker lead its own process group; both sides do, so that neither has to wait for the other."""
    with suppress(OSError):  # done by the other side, or the worker is dead already
        os.setpgid(pid, pid)


def kill_group(pid: int, signum: int) -> bool:
    """Send a signal to a worker and, if it shall end, to the processes it has started; false if there is none."""
    # Nothing is imported here: the template must be able to kill even when the package is gone from the disk.
    with suppress(OSError):  # all of them are gone, or a task has left the group
        if signum in {signal.SIGTERM, signal.SIGKILL}:
            os.killpg(pid, signum)
            if os.getpgid(pid) == pid:  # it was among them: a second signal might meet the next task
                return True
    try:
        os.kill(pid, signum)  # by itself: a task may have moved its worker to another group
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's by now
        pass
    return True
