"""Kills the program at one place of parmap's own code after the other, and looks what is left behind after each.

    python orphans.py CASE WHO HOW FOLDER

WHO is the program; or the template, or a worker, and the program as soon as that is dead. This process forks the programs,
and is the parent of whatever they leave. HOW is as for `mortality.py`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import dying
import tasks_that_count
from dying import PROGRAM, TEMPLATE, WORKER
from mortality import CASES, Bench, choose

import parmap
from conftest import children, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 15.0
_SUBREAPER = 36  # of <sys/prctl.h>


def _hold(number: int, path: str) -> None:
    """Be busy, with a process of its own."""
    tasks_that_count.count(number, path)
    subprocess.run(["sleep", "1000"], check=False)


def held(bench: Bench) -> None:
    """Two workers are busy, and something waits; then all is given up."""
    bench.options = {"workers": 2}
    numbers = bench.new(4)
    f = bench.f(_hold)
    futures = [f.submit(number, bench.path) for number in numbers]
    wait_until(lambda: sum(tasks_that_count.runs(bench.path)[number] for number in numbers) == 2, 10)
    futures[0].cancel()
    f.shutdown(wait=False, cancel_futures=True)
    parmap.parallel(abs, workers=1).submit(3).result(timeout=10)


def deaf(bench: Bench) -> None:
    """A task that ignores signals."""
    bench.f(tasks_that_count.count_and_ignore).submit(bench.new()[0], bench.path).exception(timeout=1)


ROLES = {"program": PROGRAM, "template": TEMPLATE, "worker": WORKER}
HELD: dict[str, Callable[[Bench], Any]] = {**CASES, "held": held, "deaf": deaf}


class Trial:
    """One case in which a program is killed."""

    def __init__(self, name: str, who: str, folder: str) -> None:
        self.name, self.who, self.folder = name, ROLES[who], folder
        self.home = os.path.dirname(parmap.__file__)
        self.switch = dying.prepare(folder, self.home)
        self.temporary = os.environ["TMPDIR"] = os.path.join(folder, "tmp")
        os.mkdir(self.temporary)
        self.faults: list[str] = []
        self.deaths = 0

    def count(self) -> int:
        """How many places there are."""
        self.kill(0)
        return self.switch.count

    def kill(self, at: int) -> None:
        """Let the program be killed there, and see what it leaves."""
        pid = os.fork()
        if not pid:
            self.be_program(at)
        _, status = os.waitpid(pid, 0)
        dead = self.switch.disarm()
        self.deaths += bool(dead)
        rest = [*left(), *os.listdir(self.temporary)]
        if rest or os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            self.faults.append(f"{at}: {dead}: status {status}, {rest} are left")
        for child in children():
            child.kill()

    def be_program(self, at: int) -> None:
        """Make the call, and end by SIGKILL: there, at once when another has died there, or at the end."""
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        dying.trace(self.folder, self.home, PROGRAM)
        self.switch.arm(self.who, at)
        if self.who != PROGRAM:
            threading.Thread(target=self.follow, daemon=True).start()
        try:
            HELD[self.name](Bench(self.folder, PROGRAM))
            if self.name in CASES:
                parmap.shutdown()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def follow(self) -> None:
        """End when another has."""
        while self.switch.is_armed:
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGKILL)


def left() -> list[str]:
    """Processes that should be gone, seconds later; all that are orphans come to us."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        time.sleep(0.002)
    return [" ".join(child.cmdline()) for child in children()]


def main(name: str, who: str, how: str, folder: str) -> int:
    """Try one case."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    trial = Trial(name, who, folder)
    total, tried = trial.count(), 0
    for at in choose(how, total):
        trial.kill(at)
        tried += 1
        if len(trial.faults) > 5:
            break
    wrong = len(trial.faults)
    print(
        f"{name} {who}: {tried} tries of {total} places, {trial.deaths} deaths, {wrong} wrong", *trial.faults, sep="\n"
    )
    return bool(trial.faults)


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
