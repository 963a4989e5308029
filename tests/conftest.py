"""Fixtures: every backend, a clean process after each test, scripts run as a user would run them."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import parmap
from parmap._core import ledger as _ledger
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from parmap._core.job import Job


# A new Python, or a free-threaded one, may have no wheel of it.
collect_ignore = (
    []
    if find_spec("hypothesis")
    else [
        path.name for path in Path(__file__).parent.glob("test_*.py") if "\nfrom hypothesis" in path.read_text("utf-8")
    ]
)


if not collect_ignore:
    from hypothesis import settings

    settings.register_profile("busy", deadline=None)  # a machine that does much else is no fault
    settings.load_profile("busy")


def pytest_report_header() -> str | None:
    """Tell what is left out."""
    return f"hypothesis is missing; left out: {', '.join(sorted(collect_ignore))}" if collect_ignore else None


LONG = [
    *["injection", "clusters", "timeouts", "exit", "voice", "pool", "world", "odd_places", "deadline", "mortality"],
    *["libraries", "deaths", "main_module", "exit_failed", "streams", "journal", "output", "marks", "settings"],
    *["broken_pool", "vocabulary", "sharing", "retention", "executor_backend", "scarcity", "per_worker"],
    *["executor", "remade", "report", "ledger", "interrupted_results", "worker_lives", "staleness", "retries"],
    *["exit_signals", "interrupt", "many_pools", "notebook", "executor_kinds", "start", "joblib", "forgetting"],
    *["initializer", "aliasing", "clusters_lost", "simulation", "payload", "seeds", "hard_cases"],
    *["replaced_imports", "endings", "script_odds"],
]
"""Files of tests that take long: they begin first, so that none of them is left when there is nothing else."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long; `--no-loadscope-reorder` keeps it so. What sends nothing has no transport."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
    if config.getoption("--transport") is not None:
        left_out = [item for item in items if _sends_nothing(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _sends_nothing(item)]


def _sends_nothing(item: pytest.Item) -> bool:
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    chosen = params.get("backend")
    return isinstance(chosen, dict) and chosen.get("backend") in {"threads", "serial"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ways of travelling that must make no difference: the whole suite can be run in each."""
    group = parser.getgroup("parmap")
    group.addoption("--transport", choices=["segments", "socket"], help="the way of every payload, whatever its size")
    group.addoption("--one-by-one", action="store_true", help="every chunk holds one item")


def pytest_configure(config: pytest.Config) -> None:
    """Set what was chosen, for this process and the workers that it starts."""
    transport = config.getoption("--transport")
    if transport is not None:
        Limits.enabled = Limits.enabled and transport == "segments"
        Limits.smallest = 0
    if config.getoption("--one-by-one"):
        _ledger.Scheduler = OneByOne


class OneByOne(_ledger.Scheduler):
    """A scheduler whose chunks hold one item, whatever a call says."""

    def _size(self, job: Job, idle: int, now: float) -> int:
        return 1


def many(items: int) -> int:
    """So many items, where they are in chunks; else a tenth: as many chunks as otherwise, and more."""
    return items // 10 if _ledger.Scheduler is OneByOne else items


os.environ.setdefault("RAY_worker_niceness", "0")  # else tests on Ray come last on a busy machine, and in vain
for name in ("RAY_prestart_worker_first_driver", "RAY_enable_worker_prestart"):  # each takes a second of processor
    os.environ.setdefault(name, "0")

CLUSTER = os.environ.get("TESTS_ON_CLUSTER")
"""The cluster, dask or ray, that what is for each backend, or for worker processes, is tested on instead."""

PROCESSES: list[dict[str, Any]] = [
    {"backend": "processes", "start_method": "forkserver"},
    {"backend": "processes", "start_method": "spawn"},
]
BACKENDS: list[dict[str, Any]] = [*PROCESSES, {"backend": "threads"}, {"backend": "serial"}]
if CLUSTER:
    PROCESSES = BACKENDS = [{"backend": CLUSTER}]


def _name(options: dict[str, Any]) -> str:
    return options.get("start_method", options["backend"])


@pytest.fixture(params=BACKENDS, ids=_name)
def backend(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options that choose a backend, each in turn."""
    return {"workers": 2, **request.param}


@pytest.fixture(params=PROCESSES, ids=_name)
def processes(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options that choose worker processes, by either start method."""
    return {"workers": 2, **request.param}


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll *condition* until it holds; fail when it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {getattr(condition, '__name__', condition)}")
        time.sleep(0.005)


_OF_MULTIPROCESSING = re.compile(r"multiprocessing\.(resource_tracker|forkserver) import")


def _has_none() -> bool:
    """Whether the system tells at once that there are none: a look at all of its processes takes milliseconds."""
    lists = [*Path("/proc/self/task").glob("*/children")]
    try:
        pids = {pid for path in lists for pid in path.read_text().split()}
    except OSError:  # a thread has just ended
        return False
    return bool(lists) and pids <= {str(resource_tracker._resource_tracker._pid)}  # type: ignore[attr-defined]


def children() -> list[psutil.Process]:
    """The processes of this one, but for the standard library's own, which `multiprocessing` keeps to the end."""
    if _has_none():
        return []
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            own = _OF_MULTIPROCESSING.search(" ".join(child.cmdline())) is not None
        except psutil.Error:  # it has just ended, or is about to: the next look tells
            own = False
        if not own:
            found.append(child)
    return found


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def _parmap_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("parmap-engine")]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the garbage collector: it would look at all of them, a few hundred times."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _the_library_s_own_process() -> None:
    """Start and open what the standard library would at some time, and keep: its descriptors are not to be counted."""
    import ctypes  # noqa: F401 - Debian's keeps libffi open, once something has imported it, as numpy does

    resource_tracker.ensure_running()
    if sys.version_info >= (3, 14):  # its executors are forked from a server then, by default
        from multiprocessing import forkserver

        forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_s_own_generator() -> None:
    """Have hypothesis make its generator of random numbers: it warns of one that nobody holds who isn't frozen."""
    if find_spec("hypothesis"):
        from hypothesis import find, strategies

        find(strategies.just(True), bool)


@pytest.fixture(scope="module", autouse=True)
def _a_small_heap() -> None:
    """Let the garbage collector look at nothing older than the file: thousands of tests, and libraries they import."""
    gc.collect()
    gc.freeze()


def _end_all(before: int) -> None:
    """End the pools; then no child process, no engine thread, no descriptor is there that was not there before."""
    parmap.shutdown()
    if CLUSTER:  # its library has children, threads and descriptors of its own
        return
    try:
        wait_until(lambda: not children())
    except pytest.fail.Exception:
        left = children()
        told = f"processes are left: {[child.as_dict(['pid', 'status', 'cmdline']) for child in left]}"
        for child in left:  # or the tests after this one would wait for them, too
            child.kill()
        psutil.wait_procs(left, 10)
        pytest.fail(told)
    wait_until(lambda: not _parmap_threads())
    if Limits.smallest == 0:  # a function has a descriptor, too, as long as any traceback knows a future of it
        gc.collect()
    wait_until(lambda: _descriptors() <= before)


@pytest.fixture(scope="module")
def pools_stay() -> Iterator[None]:
    """For tests that a pool serves, whoever started it: nothing is left after the last of them in their file."""
    before = _descriptors()
    yield
    _end_all(before)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test nothing is left, but for the pools of those that share them."""
    if "pools_stay" in request.fixturenames:
        yield
        return
    parmap.shutdown()  # a test before this one may have left its pools to others
    before = _descriptors()
    yield
    _end_all(before)


@pytest.fixture(scope="session", autouse=True)
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster that was asked for, for the whole run."""
    if not CLUSTER:
        yield
        return
    from clusters import CLUSTERS

    with CLUSTERS[CLUSTER](tmp_path_factory.mktemp("cluster")):
        yield


class Script:
    """Runs a Python script in a process of its own, as a user would."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PARMAP_")}
        self.environment.pop("PYTHONUNBUFFERED", None)  # users' streams have buffers

    def write(self, text: str, name: str = "script.py") -> str:
        """Save a script; returns its path."""
        path, text = self.folder / name, textwrap.dedent(text)
        if not path.exists() or path.read_text() != text:  # one that has just been started may be about to read it
            path.write_text(text)
        return str(path)

    def run(self, text: str, *, timeout: float = 60, args: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        return subprocess.run(
            [sys.executable, *args, self.write(text)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            cwd=self.folder,
            check=False,
        )

    def start(self, text: str, **options: Any) -> subprocess.Popen[str]:
        """Start a script in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, self.write(text)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
            **{"start_new_session": True, **options},
        )


@pytest.fixture
def script(tmp_path: Any) -> Script:
    """A place to run scripts in."""
    return Script(tmp_path)
