"""Looking at the processes behind a parallel function, to hit them at a chosen moment."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from conftest import wait_until
from parmap._calls.journal import file as _journal_file
from parmap._calls.journal import keeping as _journal_keeping
from parmap._engine import pools as _pools
from parmap._engine import registry as _registry
from parmap._results.callbacks import callbacks
from parmap.backends import _dask
from parmap.backends._clusters import pilot as _pilot
from parmap.backends._processes import staff as _staff

if TYPE_CHECKING:
    from collections.abc import Iterator


def engine_of(function: Any) -> Any:
    """The engine that runs *function*."""
    return _registry.engine_of(function._settings.resolve())


def workers_of(function: Any) -> list[Any]:
    """The workers of the pool, as the parent sees them."""
    return list(engine_of(function).backend._workers.values())


def pids_of(function: Any) -> list[int]:
    """The processes of the pool that run now."""
    return [worker.pid for worker in workers_of(function) if worker.pid]


def ready_pids_of(function: Any) -> list[int]:
    """Those that have started."""
    return [worker.pid for worker in workers_of(function) if worker.ready]


def template_of(function: Any) -> int:
    """The template process of the pool."""
    return engine_of(function).backend._launcher.pid


def state_of(function: Any) -> int:
    """What the status page of the only worker says: the number of its chunk, or 0."""
    (worker,) = workers_of(function)
    return worker.page.position().number


def lose_file_of(broadcast: Any) -> None:
    """Let nobody read a broadcast value from this process's file, as if they were on other machines."""
    pickle.dumps(broadcast)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), broadcast._fd)


def puts_of(function: Any, monkeypatch: Any) -> list[int]:
    """The sizes of what the cluster that a function runs on is given to keep, from now on."""
    backend, sizes = engine_of(function).backend, []
    put = backend.put

    def count(content: Any) -> Any:
        sizes.append(len(content))
        return put(content)

    monkeypatch.setattr(backend, "put", count)
    return sizes


def names_like(text: str) -> int:
    """How many sockets of this machine have a name with that text in it."""
    with open("/proc/net/unix") as table:
        return sum(text in line for line in table)


def own_memory() -> int:
    """Bytes of this process that are nobody else's: segments, which are kept longer, are not among them."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) << 10


def is_gone(process: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(process: int, signum: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(process, signum)
    except ProcessLookupError:
        pass


def let_stand(process: int, *, seconds: float) -> None:
    """Wait until a program has stopped itself, as Ctrl-Z would; let it go on when so many seconds have passed."""
    wait_until(lambda: psutil.Process(process).status() == psutil.STATUS_STOPPED)
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end)
    os.kill(process, signal.SIGCONT)


def wait_until_leased(function: Any) -> None:
    """Wait until an idle worker may be used by the calling thread, if the system lets it."""
    backend = engine_of(function).backend
    wait_until(lambda: backend._open or not backend.leases)


def engines() -> list[Any]:
    """The engines that have not ended."""
    return list(_registry._living)


def is_running(function: Any) -> bool:
    """Whether the pool of *function* is there, without starting it."""
    engine = _registry._shared.get(function._settings.resolve().pool_key)
    return engine is not None and not engine.closed


def limits_of_waits(function: Any, monkeypatch: Any) -> list[float | None]:
    """The time limits of all waits on the engine of *function* from now on."""
    engine, limits = engine_of(function), list[float | None]()
    wait = engine.wait

    def note(watched: Any, timeout: float | None = None) -> Any:
        limits.append(timeout)
        return wait(watched, timeout)

    monkeypatch.setattr(engine, "wait", note)
    return limits


def waiting_for(handle: Any) -> int:
    """How many wait for a future, the result of a pool, or a stream."""
    handle = getattr(handle, "_future", handle)
    return len(getattr(handle, "_batch", handle).__dict__.get("_watchers", ()))


def callbacks_end() -> None:
    """Forget the thread that runs done-callbacks, so that the next one needs another."""
    callbacks.forget()


@contextmanager
def second_thread_of_callbacks() -> Iterator[None]:
    """Meanwhile two threads run done-callbacks, as when two were started in the same moment."""
    thread = threading.Thread(target=callbacks._live)
    thread.start()
    yield
    thread.join(30)


def key_of(function: Any) -> int:
    """The number under which workers know *function* as it is now; another one when it has to be sent again."""
    settings = function._settings.resolve()
    return engine_of(function).backend.prepare(function.__wrapped__, _pools._rules(settings)).number


def parts_of(function: Any) -> list[int]:
    """The numbers of the parts of *function* that travel by themselves, as it is now."""
    settings = function._settings.resolve()
    call = engine_of(function).backend.prepare(function.__wrapped__, _pools._rules(settings))
    return [part.number for part in call.parts]


def known_to_workers(function: Any) -> int:
    """How many functions, parts of functions, and files of such, the workers of the pool keep."""
    return sum(len(worker.known) for worker in workers_of(function))


def file_system_by(table: str, folder: str) -> str:
    """The kind of the file system of a folder, as a table of mounts tells."""
    return _journal_file.file_system(folder, table)


def pretend_file_system(monkeypatch: Any, kind: str) -> None:
    """Let all folders lie on a file system of that kind."""
    monkeypatch.setattr(_journal_file, "file_system", lambda _: kind)


def limit_journals(monkeypatch: Any, most: int) -> None:
    """Let no journal take more bytes for a result."""

    def connect(*args: Any, **how: Any) -> Any:
        connection = _journal_file.connect(*args, **how)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)
        return connection

    monkeypatch.setattr(_journal_keeping, "connect", connect)


def known_to(report: Any) -> Any:
    """What a report knows now."""
    with report._gathered.held() as known:
        return known


def told(report: Any, passage: Any) -> None:
    """Tell a report of a chunk, as its way back would."""
    report._gathered.tell("passage", passage)


def gathered_of(report: Any) -> Any:
    """What a report keeps its knowledge in."""
    return report._gathered


def drop_while_fetching(dask_worker: Any) -> None:
    """In a worker of Dask's: each time it fetches something, it is told first to drop something else."""
    fetch = _dask._fetch

    def busily(key: str) -> bytes:
        for pool in _pilot._pilots:
            dask_worker.loop.add_callback(_pilot.forget, pool, [])
        return fetch(key)

    _dask._fetch = busily


def pilots(rest: float) -> set[str]:
    """In a worker of a cluster: which pilots there are; those to come end after so many seconds of *rest*."""
    _pilot._EMPTY = rest
    return {*_pilot._pilots}


def owns(lender: Any, name: int) -> bool:
    """Whether a segment may come back to whoever lends, or is free."""
    return name in lender._lent or any(segment.name == name for segment in lender._free)


def grace(monkeypatch: Any, seconds: float) -> None:
    """Let workers have so many seconds to leave by themselves, when they are replaced."""
    monkeypatch.setattr(_staff, "GRACE", seconds)


def missing_of(line: Any) -> int:
    """How many tasks the worker's end of a quick line takes for being on their way still."""
    return len(line._missing)
