"""Runs trials, some at a time, each in a process of its own: it is forked from one that has imported what they need.

    python trials.py MODULE

Each line that comes is a list of what the module's `main` is called with; a folder is the last of it. What a trial prints
is in the file `told` in this folder; the line that goes back is its exit status.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import traceback
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AT_ONCE = 3  # most of their time they wait

Trial = tuple[str, ...]
"""A module, and the arguments of its `main`."""
Outcomes = dict[Trial, Future[tuple[int, str]]]
"""The exit status of each trial, and what it printed."""


class Server:
    """A process that forks trials of a module."""

    def __init__(self, module: str) -> None:
        import parmap

        paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(parmap.__file__))]
        self._process = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def run(self, args: Iterable[str], folder: Path, patience: float) -> tuple[int, str]:
        """Run a trial to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([*args, str(folder)]), file=self._process.stdin, flush=True)
        has_ended = select.select([self._process.stdout], [], [], patience)[0]
        assert has_ended, f"{args} takes more than {patience} s"
        return int(self._process.stdout.readline()), (folder / "told").read_text("utf-8")

    def end(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()


class Trials:
    """Trials that run, whoever asks for one of them."""

    def __init__(self, chosen: Iterable[Trial], new_folder: Callable[[], Path], patience: float) -> None:
        self._patience = patience
        self._servers: list[Server] = []
        self._idle: dict[str, list[Server]] = defaultdict(list)
        self._executor = ThreadPoolExecutor(AT_ONCE)
        # Folders are made here: pytest's own is not made twice at a time.
        self.outcomes: Outcomes = {trial: self._executor.submit(self._run, trial, new_folder()) for trial in chosen}

    def _run(self, trial: Trial, folder: Path) -> tuple[int, str]:
        module, *args = trial
        try:
            server = self._idle[module].pop()
        except IndexError:
            server = Server(module)
            self._servers.append(server)
        outcome = server.run(args, folder, self._patience)
        self._idle[module].append(server)
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        for server in self._servers:
            server.end()


def _fork(main: Callable[..., int], args: list[str]) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for number, path in enumerate([os.devnull, os.path.join(args[-1], "told")]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.dup2(1, 2)
    status = 1
    try:
        status = main(*args)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    program = import_module(sys.argv[1]).main
    for line in sys.stdin:
        print(_fork(program, json.loads(line)), flush=True)
