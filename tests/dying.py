"""Ends a process, or stops it for a while, before one of the lines of parmap's own code that it comes to.

`sitecustomize` imports it in each interpreter that is started: see `prepare`. A file in memory that all of them share
says who is to end, where and how. Who is armed counts its lines, also those that it runs before the program hears of it.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

NOBODY, PROGRAM, TEMPLATE, WORKER, FORKED = range(5)
"""Who may be armed. One that is forked is whatever a task forks."""

EXIT = 3
TOGETHER = 0  # with its parent
WAYS = {
    "exit": -EXIT,
    "kill": signal.SIGKILL,
    "crash": signal.SIGSEGV,
    "stop": signal.SIGSTOP,
    "together": TOGETHER,
}

_VARIABLE = "DYING"
_SIZE = 4096
_WHO, _AT, _COUNT, _HOW, _STOPPED, _LEFT, _FINE = range(7)


class Death(NamedTuple):
    """Who ended, and where."""

    pid: int
    begun: int  # tasks that had begun by then
    place: str


class Switch:
    """What all processes see."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(os.path.join(folder, "switch"), "r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("q")

    def arm(self, who: int, at: int, how: str = "kill", *, times: int = 1, fine: bool = False) -> None:
        """Let *who* end at line number *at* from now on, so many *times*; never, if it is 0. *fine*: at that opcode."""
        self.disarm()
        with open(os.path.join(self.folder, "deaths"), "w"):
            pass
        cells = self._cells
        cells[_AT], cells[_COUNT], cells[_HOW], cells[_STOPPED], cells[_LEFT] = at, 0, WAYS[how], 0, times
        cells[_FINE] = fine
        cells[_WHO] = who

    def disarm(self) -> list[Death]:
        """Who has ended, and where."""
        self._cells[_WHO] = NOBODY
        try:
            with open(os.path.join(self.folder, "deaths")) as file:
                told = [line.rstrip().split(" ", 2) for line in file]
        except FileNotFoundError:
            return []
        return [Death(int(pid), int(begun), place) for pid, begun, place in told]

    @property
    def count(self) -> int:
        """How many lines there were."""
        return self._cells[_COUNT]

    @property
    def is_armed(self) -> bool:
        """Whether somebody is to end still."""
        return self._cells[_WHO] != NOBODY

    def see(self, who: int, frame: FrameType, event: str) -> None:
        """A line comes: end here, if it is the one."""
        cells = self._cells
        if cells[_WHO] != who:
            return
        if cells[_FINE]:
            frame.f_trace_opcodes = True
        if event != ("opcode" if cells[_FINE] else "line"):
            return
        cells[_COUNT] += 1
        if cells[_COUNT] == cells[_AT]:
            cells[_LEFT] -= 1
            if cells[_LEFT]:
                cells[_COUNT] = 0
            else:
                cells[_WHO] = NOBODY
            self._end(frame)

    def _end(self, frame: FrameType) -> None:
        how, code = self._cells[_HOW], frame.f_code
        place = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
        note = os.open(os.path.join(self.folder, "deaths"), os.O_WRONLY | os.O_APPEND)
        os.write(note, f"{os.getpid()} {begun(self.folder)} {place}\n".encode())
        os.close(note)
        if how < 0:
            os._exit(-how)
        if how == signal.SIGSTOP:
            self._cells[_STOPPED] = os.getpid()
        if how == TOGETHER:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), how or signal.SIGKILL)

    def wake(self) -> None:
        """Let who was stopped go on."""
        pid, self._cells[_STOPPED] = self._cells[_STOPPED], 0
        if pid:
            from psutil import STATUS_STOPPED, STATUS_ZOMBIE, NoSuchProcess, Process

            end = time.monotonic() + 10
            with suppress(ProcessLookupError, NoSuchProcess):
                # It may be held up before it stops: then nobody would let it go on.
                while Process(pid).status() not in {STATUS_STOPPED, STATUS_ZOMBIE} and time.monotonic() < end:
                    time.sleep(0.001)
                time.sleep(0.02)  # any time will do
                os.kill(pid, signal.SIGCONT)


def begun(folder: str) -> int:
    """How many tasks have begun: see `tasks_that_count`."""
    try:
        return os.path.getsize(os.path.join(folder, "runs")) // 4
    except OSError:
        return 0


class _Tracer:
    """Shows the lines of one process."""

    def __init__(self, switch: Switch, who: int, home: str) -> None:
        self._switch, self._who, self._home = switch, who, home

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._home):
            return None
        self._switch.see(self._who, frame, event)
        return self

    def fork(self) -> None:
        """A template forks workers; what these fork is something else."""
        self._who = min(self._who + 1, FORKED)


def begin() -> None:
    """Be looked at from now on, if this is an interpreter that parmap has started."""
    told = os.environ.get(_VARIABLE)
    call = next((arg for arg in sys.orig_argv if "launcher import" in arg), "")
    if told and call:
        trace(*told.split("|"), TEMPLATE if "template(" in call else WORKER)


def trace(folder: str, home: str, who: int) -> None:
    """Look at the lines of this thread, and of those that it starts."""
    tracer = _Tracer(Switch(folder), who, home)
    os.register_at_fork(after_in_child=tracer.fork)
    threading.settrace(tracer)
    sys.settrace(tracer)


def prepare(folder: str, home: str) -> Switch:
    """Let the interpreters that are started from now on be looked at; *home*: where the code is that counts."""
    with open(os.path.join(folder, "switch"), "wb") as file:
        file.truncate(_SIZE)
    with open(os.path.join(folder, "sitecustomize.py"), "w", encoding="utf-8") as file:
        file.write("import dying\ndying.begin()\n")
    os.environ[_VARIABLE] = f"{folder}|{home}"
    paths = [folder, os.path.dirname(os.path.abspath(__file__)), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    return Switch(folder)
