"""Ends a program, or forks it, while one thread is held up at one of parmap's lines; looks what became of everything.

    python endings.py CASE END BACKEND HOW FOLDER

CASE is what a thread does; END, how the main thread ends meanwhile, or whom it forks. Behind a comma: `daemon`, the thread
is one; `main`, the main thread does it; `cold`, it is the first call; `atexit` or `del`, an exit handler or a destructor
uses parmap, too. HOW is `every` place, or how many at random (by the variable SEED). A place is a line, the name of a
thread, and how often it comes there. This process forks the programs, and is the parent of whatever they leave. It prints
what was wrong, and exits with 1 if anything was.
"""

from __future__ import annotations

import asyncio
import atexit
import builtins
import concurrent.futures
import ctypes
import faulthandler
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import psutil
from tasks_that_count import count, runs

import parmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HOME = os.path.dirname(parmap.__file__) + os.sep
PATIENCE = 60.0  # seconds for one program
PAUSE = 0.25  # longer than the main thread takes to its end
_SUBREAPER = 36  # of <sys/prctl.h>

Place = tuple[str, str, int, int]


class Holder:
    """Traces all threads, and holds one up where it is to be *held*; or writes down where they come."""

    def __init__(self, held: Place | None, folder: str) -> None:
        self.held = held and held[:3]
        self.left = held[3] if held else 0
        self.counts: dict[tuple[str, str, int], int] = {}
        self.notes = (
            -1 if held else os.open(os.path.join(folder, "places"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
        )
        self.is_held = threading.Event()
        self.on = False
        self.pid = os.getpid()
        self.pause = PAUSE

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if HOME is None or not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line" and self.on and os.getpid() == self.pid:
            thread = threading._active.get(threading.get_ident())
            place = (thread.name if thread else "", frame.f_code.co_filename[len(HOME) :], frame.f_lineno)
            if self.held is None:
                self.counts[place] = times = self.counts.get(place, 0) + 1
                if times < 4:
                    os.write(self.notes, (json.dumps([*place, times]) + "\n").encode())
            elif place == self.held:
                self.left -= 1
                if self.left == 0:
                    self.is_held.set()
                    time.sleep(self.pause)
        return self


class Program:
    """What is looked at."""

    def __init__(self, case: str, end: str, backend: str, folder: str, held: Place | None) -> None:
        self.case, self.end, self.folder = case, end, folder
        self.path = os.path.join(folder, "runs")
        self.submitted = os.path.join(folder, "submitted")
        self.options: dict[str, Any] = {"workers": 2, "backend": backend}
        self.f = parmap.parallel(count, **self.options)
        self.number = 0
        self.api, self.count = parmap, count
        self.holder = Holder(held, folder)
        self.done = threading.Event()
        self.keep: list[Any] = []
        self.quiet = False  # a forked child

    def new(self, size: int) -> list[int]:
        self.number += size
        return [*range(self.number - size + 1, self.number + 1)]

    def promise(self, numbers: list[int]) -> None:
        """They have been submitted: they will run if the program ends well."""
        for number in numbers:
            count(number, self.submitted)

    def note(self, what: str) -> None:
        if self.quiet:
            return
        with open(os.path.join(self.folder, "notes"), "a") as file:
            file.write(what + "\n")

    # cases

    def submit(self) -> None:
        for number in self.new(3):
            future = self.f.submit(number, self.path)
            self.promise([number])
            assert future.result() == -number

    def many(self) -> None:
        futures = []
        for number in self.new(12):
            futures.append(self.f.submit(number, self.path))
            self.promise([number])
        called: list[Any] = []
        for future in futures:
            future.add_done_callback(called.append)
        for future in concurrent.futures.as_completed(futures):
            future.result()

    def map(self) -> None:
        numbers = self.new(20)
        assert self.f.partial(path=self.path).map(numbers) == [-number for number in numbers]

    def map_async(self) -> None:
        numbers = self.new(20)
        future = self.f.partial(path=self.path).map_async(iter(numbers))
        self.promise(numbers)
        assert future.result() == [-number for number in numbers]

    def imap(self) -> None:
        numbers = self.new(20)
        assert list(self.f.partial(path=self.path).imap(iter(numbers), buffersize=4)) == [-n for n in numbers]

    def half(self) -> None:
        """A stream that is left open."""
        numbers = self.new(20)
        stream = self.f.partial(path=self.path).imap(iter(numbers), buffersize=4)
        self.keep.append(stream)
        assert next(stream) == -numbers[0]

    def aio(self) -> None:
        async def main() -> None:
            numbers = self.new(4)
            futures = [self.f.submit(number, self.path) for number in numbers]
            self.promise(numbers)
            assert await asyncio.gather(*futures) == [-number for number in numbers]
            numbers = self.new(6)
            got = [each async for each in self.f.partial(path=self.path).imap(numbers)]
            assert got == [-number for number in numbers]

        asyncio.run(main())

    def executor(self) -> None:
        with parmap.Executor(1, backend=self.options["backend"]) as executor:
            for number in self.new(3):
                future = executor.submit(count, number, self.path)
                self.promise([number])
            assert future.result() == -number

    def drop(self) -> None:
        executor = parmap.Executor(1, backend=self.options["backend"])
        for number in self.new(3):
            future = executor.submit(count, number, self.path)
            self.promise([number])
        del executor
        gc.collect()
        assert future.result() == -number

    def pool(self) -> None:
        with parmap.Pool(1, backend=self.options["backend"]) as pool:
            numbers = self.new(6)
            assert pool.starmap(count, [(number, self.path) for number in numbers]) == [-n for n in numbers]

    def shutdown(self) -> None:
        numbers = self.new(6)
        futures = [self.f.submit(number, self.path) for number in numbers]
        self.promise(numbers)
        self.f.shutdown()
        assert [future.result() for future in futures] == [-number for number in numbers]
        self.submit()

    def retire(self) -> None:
        """Workers that leave after a task or two."""
        f = parmap.parallel(count, **self.options, max_tasks_per_child=1, idle_timeout=0.02)
        numbers = self.new(5)
        futures = [f.submit(number, self.path) for number in numbers]
        self.promise(numbers)
        assert [future.result() for future in futures] == [-number for number in numbers]

    def cancel(self) -> None:
        futures = [self.f.submit(number, self.path) for number in self.new(6)]
        for future in futures:
            future.cancel()

    # run

    def act(self) -> None:
        try:
            CASES[self.case](self)
            self.note("ok")
        except parmap.PoolClosedError:
            self.note("closed")
            self.note(traceback.format_exc()) if self.end in STRICT else None
        except BaseException:
            self.note(traceback.format_exc())
        finally:
            self.done.set()

    def run(self) -> None:
        """As the main thread."""
        end, *more = self.end.split(",")
        faulthandler.enable()
        atexit.register(self.note, "exit handlers run")
        if "cold" not in more:
            self.f.map([]) if "cool" in more else self.f.partial(path=self.path).map(self.new(4))
            self.f.submit(*self.new(1), self.path).result()
        if "atexit" in more:
            atexit.register(self.late)
        if "del" in more:
            globals()["last"] = Late(self)
            self.holder.pause = 1.0
        threading.settrace(self.holder)
        sys.settrace(self.holder)
        sys._getframe().f_trace = None
        self.holder.on = True
        if "main" in more:
            self.act()
        else:
            thread = threading.Thread(target=self.act, name="user", daemon="daemon" in more)
            thread.start()
            deadline = time.monotonic() + 3
            while not self.holder.is_held.is_set() and not self.done.is_set() and time.monotonic() < deadline:
                time.sleep(0.001)
        self.note(f"promised {os.path.getsize(self.submitted) // 4}")
        ENDS[end](self)

    def late(self) -> None:
        """Use parmap, late."""
        for call in (
            lambda: self.f.partial(path=self.path).map(self.new(2)),
            lambda: self.f.submit(*self.new(1), self.path).result(),
            lambda: (
                self.api.Executor(1, backend=self.options["backend"])
                .submit(self.count, *self.new(1), self.path)
                .result()
            ),
        ):
            try:
                call()
            except Exception as error:
                self.note(f"late: {error!r}")
        self.note("late end")

    # ends

    def finish(self) -> None:
        pass

    def exit(self) -> None:
        sys.exit(7)

    def fail(self) -> None:
        raise RuntimeError("mine")

    def os_exit(self) -> None:
        os._exit(9)

    def term(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def term_exit(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

    def twice(self) -> None:
        """Ctrl-C, and again at the end."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pid = os.getpid()
        threading.settrace(None)
        again = threading.Timer(0.03, os.kill, (pid, signal.SIGINT))
        again.daemon = True
        again.start()
        threading.settrace(self.holder)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    def fork(self, child: Callable[[], None]) -> None:
        pid = os.fork()
        if not pid:
            sys.settrace(None)
            threading.settrace(None)
            self.quiet = True
            child()
        else:
            deadline = time.monotonic() + PATIENCE / 2
            while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
                time.sleep(0.002)
            if found[0] != pid:
                os.kill(pid, signal.SIGABRT)
                found = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(found[1]) != 3:
                self.note(f"child: {found}")
            assert self.f.partial(path=self.path).map([1, 2]) == [-1, -2]
            self.note("parent went on")

    def fork_exit(self) -> None:
        self.fork(lambda: sys.exit(3))

    def fork_os_exit(self) -> None:
        self.fork(lambda: os._exit(3))

    def fork_exec(self) -> None:
        self.fork(lambda: os.execl(sys.executable, sys.executable, "-c", "raise SystemExit(3)"))

    def fork_use(self) -> None:
        def use() -> None:
            path = os.path.join(self.folder, "of_child")
            f = self.f.partial(path=path)
            assert f.map([1, 2, 3]) == [-1, -2, -3]
            assert self.f.submit(4, path).result() == -4
            assert list(f.imap([5, 6])) == [-5, -6]
            with parmap.Executor(1, backend=self.options["backend"]) as executor:
                assert executor.submit(count, 7, path).result() == -7
            future = self.f.submit(8, path)
            called: list[Any] = []
            future.add_done_callback(called.append)
            parmap.shutdown()
            future = self.f.submit(9, path)
            sys.exit(3)

        self.fork(use)

    def fork_late(self) -> None:
        """The child submits, and ends: its work is finished."""

        def use() -> None:
            self.f.submit(4, os.path.join(self.folder, "of_child"))
            sys.exit(3)

        self.fork(use)
        if len(runs(os.path.join(self.folder, "of_child"))) != 1:
            self.note("work of the child was lost")

    def process(self) -> None:
        import multiprocessing

        def use() -> None:
            assert parmap.parallel(abs, **self.options).map([-1]) == [1]
            sys.settrace(None)
            sys.exit(3)

        process = multiprocessing.get_context("fork").Process(target=use)
        process.start()
        process.join(PATIENCE / 2)
        if process.exitcode != 3:
            self.note(f"child: {process.exitcode}")
            process.kill()

    def preexec(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", "raise SystemExit(3)"], preexec_fn=os.setsid, timeout=PATIENCE / 2, check=False
        )
        if done.returncode != 3:
            self.note(f"child: {done}")

    def pty(self) -> None:
        import pty

        pid, fd = pty.fork()
        if not pid:
            assert parmap.parallel(abs, **self.options).map([-1]) == [1]
            os._exit(3)
        deadline = time.monotonic() + PATIENCE / 2
        while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.002)
        if os.waitstatus_to_exitcode(found[1]) != 3:
            self.note(f"child: {found}")
        os.close(fd)


class Late:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.builtins = vars(builtins)

    def __del__(self) -> None:
        if "open" in self.builtins:  # without the GIL this may come when the interpreter has nothing any more
            self.program.late()


CASES: dict[str, Callable[[Program], None]] = {
    each.__name__: each
    for each in (
        *(Program.submit, Program.many, Program.map, Program.map_async, Program.imap, Program.half, Program.aio),
        *(Program.executor, Program.drop, Program.pool, Program.shutdown, Program.retire, Program.cancel),
    )
}
ENDS: dict[str, Callable[[Program], None]] = {
    each.__name__: each
    for each in (
        *(Program.finish, Program.exit, Program.fail, Program.os_exit, Program.term, Program.term_exit, Program.twice),
        *(Program.fork_exit, Program.fork_os_exit, Program.fork_exec, Program.fork_use, Program.fork_late),
        *(Program.process, Program.preexec, Program.pty),
    )
}
STRICT = {"finish", "exit", "fork_use"}
STATUS = {"exit": (7,), "fail": (1,), "os_exit": (9,), "term": (-15,), "term_exit": (7,), "twice": (-2, 1, 130)}
EXPECTED = {"ok", "closed", "exit handlers run", "late end", "parent went on"}


class Trial:
    def __init__(self, case: str, end: str, backend: str, folder: str) -> None:
        self.case, self.end, self.backend, self.folder = case, end, backend, folder
        os.makedirs(folder, exist_ok=True)
        self.faults: list[str] = []
        self.temporary = os.environ["TMPDIR"] = os.path.join(folder, "tmp")
        os.makedirs(self.temporary, exist_ok=True)
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)
        self.own = {child.pid for child in psutil.Process().children()}
        self.memory = {*os.listdir("/dev/shm")}

    def read(self, name: str) -> str:
        try:
            with open(os.path.join(self.folder, name), errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def fork(self, held: Place | None) -> bool:
        """True in the program."""
        for name in ("runs", "submitted", "notes", "err", "out", "of_child"):
            open(os.path.join(self.folder, name), "w").close()
        sys.stdout.flush()
        begun = time.monotonic()
        pid = os.fork()
        if not pid:
            for fd, name in ((1, "out"), (2, "err")):
                file = os.open(os.path.join(self.folder, name), os.O_WRONLY | os.O_APPEND)
                os.dup2(file, fd)
                os.close(file)
            return True
        while not (found := os.waitpid(pid, os.WNOHANG))[0]:
            time.sleep(0.002)
            if time.monotonic() - begun > PATIENCE:
                os.kill(pid, signal.SIGABRT)
                found = os.waitpid(pid, 0)
                break
        status = found[1]
        wrong = self.look(os.waitstatus_to_exitcode(status))
        if wrong:
            self.faults.append(f"{held}: " + "\n    ".join(wrong))
            print(f"FAULT {held}: ", *wrong, sep="\n    ", flush=True)
        return False

    def look(self, status: int) -> list[str]:
        """What is wrong with a program that has ended."""
        end, *more = self.end.split(",")
        notes = self.read("notes").splitlines()
        wrong = [*self.words(end, status), *self.notes(end, more, notes), *self.work(end, more, notes)]
        deadline = time.monotonic() + PATIENCE / 3
        while left := self.left():
            if time.monotonic() > deadline:
                wrong.append(f"left: {left}")
                for each in left:
                    each.kill()
                    os.waitpid(each.pid, 0)
                break
            time.sleep(0.005)
        if files := os.listdir(self.temporary):
            wrong.append(f"files: {files}")
        if extra := {name for name in {*os.listdir("/dev/shm")} - self.memory if "parmap" in name}:
            wrong.append(f"shared memory: {extra}")
        return wrong

    def words(self, end: str, status: int) -> Iterator[str]:
        """Its status, and what it said."""
        if status not in STATUS.get(end, (0,)):
            yield f"status {status}"
        if self.read("out"):
            yield self.read("out")
        err = self.read("err")
        if end == "fail":
            if err.count("Traceback") != 1 or not err.endswith("RuntimeError: mine\n"):
                yield err
        elif end == "twice":  # the interpreter itself says so, if the second comes to an exit handler
            if "parmap-" in err or "Fatal" in err:
                yield err
        elif err:
            yield err

    def notes(self, end: str, more: list[str], notes: list[str]) -> Iterator[str]:
        """What its threads and its exit handlers came to."""
        rest = [note for note in notes if note not in EXPECTED and not note.startswith(("late: ", "promised "))]
        if rest:
            yield "\n".join(rest)
        if end in {"os_exit", "term"}:
            return
        if "exit handlers run" not in notes:
            yield "no exit handlers"
        if end != "twice" and "daemon" not in more and "ok" not in notes:
            yield f"the thread did not come to its end: {notes}"
        if end != "twice" and "atexit" in more and "late end" not in notes:
            yield f"no late use: {notes}"

    def work(self, end: str, more: list[str], notes: list[str]) -> Iterator[str]:
        """What it had submitted has run, once; a daemon thread may submit when it is too late."""
        promised = next((int(note.split()[1]) for note in notes if note.startswith("promised ")), 0)
        numbers = [*runs(os.path.join(self.folder, "submitted"))][: promised if "daemon" in more else None]
        ran = runs(os.path.join(self.folder, "runs"))
        if end in {"finish", "exit", "term_exit"} and (lost := {*numbers} - {*ran}):
            yield f"lost: {lost}"
        if often := [number for number, times in ran.items() if times > 1 and number > 2]:
            yield f"ran twice: {often}"

    def left(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process().children():
            if child.pid in self.own:
                continue
            if os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                found.append(child)
        return found

    def choose(self, how: str) -> list[Place]:
        places = sorted({tuple(json.loads(line)) for line in self.read("places").splitlines()})
        if self.end.startswith(("fork", "process", "pre", "pty")):
            places = [place for place in places if place[0] != "MainThread"]
        chance = random.Random(os.environ.get("SEED", "1"))
        chance.shuffle(places)
        self.total = len(places)
        return places if how == "every" else places[: int(how)]


if __name__ == "__main__":
    case, end, backend, how, folder = sys.argv[1:]
    trial = Trial(case, end, backend, folder)
    held: Place | None = None
    is_program = trial.fork(None)
    if not is_program:
        begun = time.monotonic()
        tried = 0
        for held in trial.choose(how):
            tried += 1
            if is_program := trial.fork(held):
                break
            if len(trial.faults) > 6:
                break
    if is_program:
        program = Program(case, end, backend, folder, held)
        program.run()
    else:
        print(
            f"{case} {end} {backend}: {tried} of {trial.total} places, {len(trial.faults)} wrong, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        os._exit(bool(trial.faults))
