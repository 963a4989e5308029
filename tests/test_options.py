"""Options: each bad value and its message, the order of the layers, the environment, CPUs."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import parmap
from parmap._calls.checks import DEFAULTS
from parmap._calls.options import Options, Settings, override, resolve
from parmap._work import place as _place
from parmap._work.cpus import cgroup_quota

if TYPE_CHECKING:
    from collections.abc import Iterator

BAD_TYPES = [
    ("workers", "4", "int of at least 1"),
    ("workers", True, "int of at least 1"),
    ("workers", 2.0, "int of at least 1"),
    ("backend", 3, "'processes', 'threads', 'serial', 'dask', 'ray'"),
    ("backend", ThreadPoolExecutor, "instance"),
    ("timeout", "1", "seconds"),
    ("timeout", True, "seconds"),
    ("retries", None, "int of at least 0"),
    ("retry_on", (ValueError, "OSError"), "exception class"),
    ("retry_on", int, "exception class"),
    ("retry_delay", None, "seconds"),
    ("chunksize", "auto", "int of at least 1"),
    ("start_method", 1, "'forkserver', 'spawn' or None"),
    ("initializer", 3, "callable or None"),
    ("initargs", 3, "tuple of arguments"),
    ("initargs", "abc", "tuple of arguments"),
    ("max_tasks_per_child", 1.5, "int of at least 1"),
    ("preload", "numpy", "tuple of module names"),
    ("preload", (1,), "tuple of module names"),
    ("env", ["A=1"], "mapping of str to str"),
    ("env", {"A": 1}, "mapping of str to str"),
    ("idle_timeout", "never", "seconds"),
    ("progress", 3, "description"),
    ("progress", None, "description"),
    ("traceback_locals", 1, "True or False"),
    ("seed", "abc", "an int"),
]
BAD_VALUES = [
    ("workers", 0, "at least 1"),
    ("workers", -1, "at least 1"),
    ("backend", "process", "'processes', 'threads', 'serial', 'dask', 'ray'"),
    ("timeout", 0, "more than 0"),
    ("timeout", float("inf"), "None (no limit)"),
    ("timeout", float("nan"), "more than 0"),
    ("retries", -1, "at least 0"),
    ("retry_delay", -0.1, "not negative"),
    ("chunksize", 0, "None (adaptive)"),
    ("start_method", "fork", "'forkserver', 'spawn' or None"),
    ("max_tasks_per_child", 0, "at least 1"),
    ("preload", ("not a module",), "('numpy',)"),
    ("env", {"A=B": "1"}, "no '='"),
    ("env", {"A": "\0"}, "null"),
    ("idle_timeout", -1, "None (never)"),
]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch):
    """Run each test without the variables of whoever runs the tests."""
    for name in DEFAULTS:
        monkeypatch.delenv(f"PARMAP_{name.upper()}", raising=False)


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_TYPES)
def test_wrong_type(name: str, value: Any, allowed: str):
    """A value of the wrong type is refused when decorating, with option, value and what is allowed."""
    with pytest.raises(TypeError) as caught:
        parmap.parallel(**{name: value})

    assert str(caught.value).startswith(f"{name} must be ")
    assert allowed in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_VALUES)
def test_wrong_value(name: str, value: Any, allowed: str):
    """A value that is not allowed is refused when decorating, with option, value and what is allowed."""
    with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
        parmap.parallel(**{name: value})

    assert allowed in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("call", [override, parmap.parallel(len).options], ids=["override", "options"])
def test_misspelled(call: Any):
    """A misspelled option is refused, and the message has the right one."""
    with pytest.raises(TypeError, match=r"no option 'worker'; did you mean 'workers'\?"):
        call(worker=3)


def test_misspelled_when_decorating():
    """A misspelled option of the decorator is refused."""
    with pytest.raises(TypeError, match="worker"):
        parmap.parallel(worker=3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "meant"), [("worker", "workers"), ("n_jobs", "workers"), ("retry", "retries"), ("time_out", "timeout")]
)
def test_a_decorator_says_which_option_was_meant(given: str, meant: str) -> None:
    """So do the decorator, and names that other libraries have."""
    with pytest.raises(TypeError, match=f"no option '{given}'; did you mean '{meant}'"):
        parmap.parallel(abs, **{given: 2})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (parmap.Executor, "time_out", "timeout"),
        (parmap.Executor, "max_worker", "max_workers"),
        (parmap.Executor, "workers", "max_workers"),
        (parmap.Executor, "maxtasksperchild", "max_tasks_per_child"),
        (parmap.Pool, "process", "processes"),
        (parmap.Pool, "max_workers", "processes"),
        (parmap.Pool, "max_tasks_per_child", "maxtasksperchild"),
    ],
)
def test_a_pool_and_an_executor_say_which_was_meant(kind: Any, given: str, meant: str) -> None:
    """So do these, by their own name and their own names of arguments."""
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\(\) has no option '{given}'; did you mean '{meant}'"):
        kind(**{given: 2})


@pytest.mark.parametrize(("kind", "name"), [(parmap.Executor, "max_workers"), (parmap.Pool, "processes")])
@pytest.mark.parametrize("count", ["4", 2.5, True, [1], print])
def test_a_bad_number_of_workers_is_told_by_its_name(kind: Any, name: str, count: Any) -> None:
    """So is a number of workers that is none."""
    with pytest.raises(TypeError, match=f"^{name} must be an int of at least 1"):
        kind(count)


def test_arguments_that_are_no_tuple() -> None:
    """Whoever gives `Pool.apply` an argument as it is hears what is wrong with which."""
    with parmap.Pool(1, backend="threads") as pool:
        for call in (pool.apply, pool.apply_async):
            with pytest.raises(TypeError, match=r"args must be a tuple of arguments for abs, .*; got 5 and {}"):
                call(abs, 5)
            with pytest.raises(TypeError, match=r"and kwds a dict; got \(5,\) and \(1,\)"):
                call(abs, (5,), (1,))


@pytest.mark.parametrize(
    "method", ["map", "imap", "imap_unordered", "outcomes", "map_async", "starmap", "starmap_async"]
)
def test_a_function_in_the_place_of_the_items(method: str) -> None:
    """Whoever gives the function again, as to a pool, hears that it is there already."""
    with pytest.raises(TypeError, match=r"give the items only, not .*: the function is the decorated one"):
        getattr(parmap.parallel(abs), method)(parmap.parallel(abs), [1])
    with pytest.raises(TypeError, match="give the items only"):
        parmap.parallel(abs).map(lambda x: x, [1])


@pytest.mark.parametrize("function", [len, str.upper, int, functools.partial(pow, 2)])
def test_any_function_in_the_place_of_the_items(function: Any) -> None:
    """Those of C, classes and partials, too."""
    with pytest.raises(TypeError, match="give the items only"):
        parmap.parallel(abs).map(function, [1])


def test_items_that_can_be_called() -> None:
    """Items may be in what can be called, if one can go through it."""

    class Rows:
        def __call__(self) -> None: ...

        def __getitem__(self, place: int) -> int:
            return [-1, -2][place]

    assert parmap.parallel(abs, backend="serial").map(Rows()) == [1, 2]
    assert parmap.parallel(str, backend="serial").map(StrEnum("Colour", ["RED"])) == ["red"]


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "outcomes", "map_async"])
def test_options_in_the_place_of_items(method: str) -> None:
    """Whoever gives the chunksize as to a pool, a constant or a coroutine hears what is wrong, and where those go."""
    call = getattr(parmap.parallel(abs), method)
    with pytest.raises(
        TypeError, match=r"^2 is not iterable: give the items, .* by partial\(\), .* by keyword \(chunksize=…\)"
    ):
        call([1], 2)

    async def items() -> list[int]: ...

    coroutine = items()
    with pytest.raises(TypeError, match=r"coroutine object .* is not iterable"):
        call(coroutine)
    coroutine.close()


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "map_async", "starmap", "starmap_async"])
def test_return_exceptions_is_a_flag(method: str) -> None:
    """It says nothing of which exceptions: a class is refused, as a value of the wrong type is everywhere."""
    call = getattr(parmap.parallel(abs), method)
    with pytest.raises(TypeError, match="return_exceptions must be True or False; got <class 'ValueError'>"):
        call([1], return_exceptions=ValueError)


def test_ordered_is_a_flag() -> None:
    """So is this."""
    with pytest.raises(TypeError, match="ordered must be True or False; got 'no'"):
        parmap.parallel(abs).outcomes([1], ordered="no")  # type: ignore[call-overload]


@pytest.mark.parametrize("method", ["starmap", "starmap_async"])
def test_starmap_of_several_iterables(method: str) -> None:
    """It takes one, of tuples; whoever has several means map."""
    with pytest.raises(TypeError, match="one iterable, of tuples; map takes several"):
        getattr(parmap.parallel(pow), method)([1, 2], [3, 4])


@pytest.mark.parametrize(
    "method", ["map", "starmap", "imap", "imap_unordered", "outcomes", "map_async", "starmap_async"]
)
def test_an_option_of_the_function_is_not_one_of_a_call(method: str) -> None:
    """Whoever gives `timeout` to a call is told where it belongs, and of a misspelling what was meant."""
    call = getattr(parmap.parallel(abs), method)
    with pytest.raises(TypeError, match=r"use f\.options\(timeout=…\)"):
        call([1], timeout=3)
    with pytest.raises(TypeError, match="did you mean 'chunksize'"):
        call([1], chunk_size=3)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("map", {"base": 2}, r"no argument 'base'.* same for all items: f\.partial\(base=…\)"),
        ("map", {"buffersize": 2}, "no argument 'buffersize', as imap has"),
        ("outcomes", {"return_exceptions": True}, "no argument 'return_exceptions', as map has"),
        ("imap_unordered", {"ordered": True}, "no argument 'ordered', as outcomes has"),
        ("map_async", {"journal": "file"}, "no argument 'journal', as map has"),
    ],
)
def test_an_argument_that_a_call_does_not_have(method: str, given: dict[str, Any], said: str) -> None:
    """Whoever means an argument of the function is told how to give it, and of one of another method, which."""
    with pytest.raises(TypeError, match=said):
        getattr(parmap.parallel(int), method)(["10"], **given)


def test_names_may_be_members_of_an_enumeration():
    """A backend may be named by an enumeration of texts, as settings often are."""
    kinds = StrEnum("kinds", {"THREADS": "threads"})  # type: ignore[misc]

    assert parmap.parallel(abs, backend=kinds.THREADS).map([-1]) == [1]  # type: ignore[attr-defined]


def test_unknown_option_lists_all():
    """An option that is like no other is refused with the list of all."""
    with pytest.raises(TypeError, match="no option 'xyz'; it has backend, chunksize"):
        override(xyz=3)  # type: ignore[call-arg]


def test_integers_of_other_types_are_welcome():
    """What can be an index is an int, as numpy's integers."""

    class Four:
        def __index__(self) -> int:
            return 4

    assert resolve({"workers": Four()}).workers == 4


@pytest.mark.parametrize(
    "backend",
    ["threads", "serial", ThreadPoolExecutor(1), SimpleNamespace(kills=False)],
    ids=["threads", "serial", "executor", "own"],
)
def test_timeout_needs_a_backend_that_kills(backend: Any):
    """A timeout that nothing could enforce is refused when decorating."""
    with pytest.raises(ValueError, match=r"timeout=2\.0 needs a backend that can kill"):
        parmap.parallel(timeout=2, backend=backend)


def test_timeout_and_threads_from_outside(monkeypatch: pytest.MonkeyPatch):
    """A timeout is refused as well where the environment chooses threads."""
    monkeypatch.setenv("PARMAP_BACKEND", "threads")

    with pytest.raises(ValueError, match="can kill"):
        resolve({"timeout": 2})


def test_timeout_and_serial_from_override():
    """Serial for debugging keeps a function with a timeout usable."""
    with override(backend="serial"):
        assert resolve({"timeout": 2}).backend == "serial"


def test_timeout_and_serial_from_environment(monkeypatch: pytest.MonkeyPatch):
    """Serial from the environment keeps a function with a timeout usable."""
    monkeypatch.setenv("PARMAP_BACKEND", "serial")

    assert resolve({"timeout": 2}).backend == "serial"


def test_timeout_in_a_worker(monkeypatch: pytest.MonkeyPatch):
    """A nested call of a function with a timeout is serial."""
    settings = Settings({"timeout": 2.0})
    settings.resolve()
    monkeypatch.setattr(_place, "in_worker", True)

    assert settings.resolve().backend == "serial"


def test_worker_wins_over_all(monkeypatch: pytest.MonkeyPatch):
    """In a worker even an explicit backend is serial."""
    monkeypatch.setattr(_place, "in_worker", True)

    assert resolve({}, {"backend": "threads"}).backend == "serial"


def test_order_of_layers(monkeypatch: pytest.MonkeyPatch):
    """options() wins over override, override over the environment, the environment over the decorator."""
    settings = Settings({"workers": 1})
    seen = [settings.resolve().workers]
    monkeypatch.setenv("PARMAP_WORKERS", "2")
    seen.append(settings.resolve().workers)
    with override(workers=3):
        seen.append(settings.resolve().workers)
        seen.append(settings.with_options({"workers": 4}).resolve().workers)
    seen.append(settings.resolve().workers)
    monkeypatch.delenv("PARMAP_WORKERS")
    seen.append(settings.resolve().workers)

    assert seen == [1, 2, 3, 4, 2, 1]


def test_inner_override_wins():
    """Overrides add up, and the inner one wins."""
    with override(workers=2, retries=1), override(workers=3):
        options = resolve()

    assert (options.workers, options.retries) == (3, 1)


def test_override_again():
    """One override can be used again, even inside itself."""
    twice = override(workers=3)
    with twice, twice:
        pass

    with twice:
        assert resolve().workers == 3
    assert resolve().workers == parmap.cpu_count()


def test_as_many_threads_as_in_an_executor():
    """Threads, which wait more than they work, are as many as `ThreadPoolExecutor` has where nobody says how many."""
    with override(backend="threads"):
        assert resolve().workers == min(32, parmap.cpu_count() + 4)
        with override(workers=3):
            assert resolve().workers == 3


def test_override_ends_with_an_error():
    """An error in the block ends the override."""

    def fail() -> None:
        with override(retries=3):
            raise LookupError

    with pytest.raises(LookupError):
        fail()

    assert resolve().retries == 0


def test_override_in_two_threads_at_once():
    """One override may be entered by several threads, which leave it in any order."""
    shared = override(workers=3)
    entered, leave = threading.Event(), threading.Event()
    seen = Future[int]()

    def use() -> None:
        with shared:
            entered.set()
            leave.wait(30)
        seen.set_result(resolve().workers)

    thread = threading.Thread(target=use)
    thread.start()
    assert entered.wait(30)
    with shared:
        leave.set()
        assert seen.result(30) == parmap.cpu_count()
        assert resolve().workers == 3
    assert resolve().workers == parmap.cpu_count()
    thread.join(30)


def test_override_is_local_to_its_thread():
    """A thread that started before does not see an override."""
    go, seen = threading.Event(), Future[int]()

    def look() -> None:
        go.wait(30)
        seen.set_result(resolve().retries)

    thread = threading.Thread(target=look)
    thread.start()
    with override(retries=3):
        go.set()
        assert seen.result(30) == 0
    thread.join(30)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "3", 3),
        ("backend", "threads", "threads"),
        ("timeout", "1.5", 1.5),
        ("timeout", "none", None),
        ("retries", "2", 2),
        ("retry_delay", "0.5", 0.5),
        ("chunksize", "10", 10),
        ("start_method", "spawn", "spawn"),
        ("start_method", "none", resolve().start_method),
        ("max_tasks_per_child", "100", 100),
        ("preload", "json, os.path,", ("json", "os.path")),
        ("preload", "auto", "auto"),
        ("idle_timeout", "None", None),
        ("progress", "on", True),
        ("progress", "0", False),
        ("progress", "reading files", "reading files"),
        ("traceback_locals", "true", True),
        ("seed", "42", 42),
        ("retries", "", 0),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object):
    """A variable sets its option; an empty one does not."""
    monkeypatch.setenv(f"PARMAP_{name.upper()}", text)

    assert getattr(resolve(), name) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PARMAP_WORKERS", "many"),
        ("PARMAP_WORKERS", "0"),
        ("PARMAP_BACKEND", "fast"),
        ("PARMAP_TRACEBACK_LOCALS", "2"),
        ("PARMAP_PROGRESS", "none"),
    ],
)
def test_bad_environment(monkeypatch: pytest.MonkeyPatch, variable: str, text: str):
    """A bad variable is refused by its name."""
    monkeypatch.setenv(variable, text)

    with pytest.raises(ValueError, match=f"^{variable} must be "):
        resolve()


def test_misspelled_environment(monkeypatch: pytest.MonkeyPatch):
    """A variable with a misspelled name is warned of."""
    monkeypatch.setenv("PARMAP_WORKRES", "3")

    with pytest.warns(RuntimeWarning, match="did you mean PARMAP_WORKERS"):
        resolve()


def test_environment_that_another_thread_changes(monkeypatch: pytest.MonkeyPatch):
    """A variable that goes while they are read is one that is not set."""
    monkeypatch.setenv("PARMAP_WORKERS", "3")
    monkeypatch.setenv("PARMAP_RETRIES", "3")
    names = type(os.environ).__iter__

    def iterate(self: Any) -> Iterator[str]:
        for name in names(self):
            self.pop("PARMAP_RETRIES", None)  # as another thread would
            yield name

    monkeypatch.setattr(type(os.environ), "__iter__", iterate)

    assert resolve().workers == 3


def test_environment_replaced(monkeypatch: pytest.MonkeyPatch):
    """Another mapping in the place of ``os.environ`` is read as well."""
    monkeypatch.setattr("os.environ", {"PARMAP_WORKERS": "3"})

    assert resolve().workers == 3


def test_resolved_once():
    """As long as nothing changes, the same object comes back: this is on the way of each submit."""
    settings = Settings({"workers": 3})

    assert settings.resolve() is settings.resolve()


def test_defaults():
    """What is not said is settled: workers, start method, the pool's life."""
    options = resolve()

    assert options.workers == parmap.cpu_count()
    assert options.start_method in {"forkserver", "spawn"}
    assert (options.backend, options.timeout, options.retries, options.idle_timeout) == ("processes", None, 0, 60.0)


def test_replace():
    """Options are not changed: others take their place."""
    options = resolve({"workers": 2})

    assert options.replace(workers=3).workers == 3
    assert options.workers == 2


def test_replace_checks():
    """A replaced option is checked."""
    with pytest.raises(ValueError, match="chunksize"):
        resolve().replace(chunksize=0)


def test_equal_options_share_a_pool():
    """The pool of two functions is one if what makes it is equal; what concerns a call alone does not matter."""
    one = resolve({"workers": 2, "env": {"A": "1", "B": "2"}, "retries": 1})
    two = resolve({"workers": 2, "env": {"B": "2", "A": "1"}, "chunksize": 9})

    assert one.pool_key == two.pool_key
    assert hash(one.pool_key) == hash(two.pool_key)


@pytest.mark.parametrize(("one", "two"), [((1,), (True,)), ((1,), (1.0,)), (([1],), ([1],)), (((1,),), ((True,),))])
def test_initializer_arguments_are_told_apart(one: tuple[Any, ...], two: tuple[Any, ...]):
    """Arguments that are equal but not the same to an initializer, or that have no hash, make different pools."""
    first, second = (resolve({"initializer": print, "initargs": args}) for args in (one, two))

    assert first.pool_key != second.pool_key
    assert first.pool_key == resolve({"initializer": print, "initargs": one}).pool_key


def test_options_show_what_is_not_default():
    """The repr has what was set."""
    assert "workers=3" in repr(resolve({"workers": 3, "retries": 0}))
    assert "retries" not in repr(resolve({"retries": 0}))
    assert repr(override(workers=3)) == "parmap.override(workers=3)"
    assert isinstance(resolve(), Options)


def test_cpu_count():
    """There is at least one CPU, and not more than the affinity allows."""
    assert parmap.cpu_count() >= 1


def _group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def _quota(root: Path, table: str) -> int | None:
    (root / "table").write_text(table)
    return cgroup_quota(str(root / "table"), str(root))


def test_quota_of_version_2(tmp_path: Path):
    """A quota of two and a half CPUs is three workers."""
    _group(tmp_path, "job", cpu__max="250000 100000\n")

    assert _quota(tmp_path, "0::/job\n") == 3


def test_quota_of_an_ancestor(tmp_path: Path):
    """The smallest quota on the way up counts."""
    _group(tmp_path, "slice", cpu__max="100000 100000")
    _group(tmp_path, "slice/job", cpu__max="400000 100000")

    assert _quota(tmp_path, "0::/slice/job\n") == 1


def test_quota_seen_from_inside(tmp_path: Path):
    """In a container the group's own folder is the root of what is mounted."""
    _group(tmp_path, ".", cpu__max="200000 100000")

    assert _quota(tmp_path, "0::/../../docker/abc\n") == 2


def test_quota_of_version_1(tmp_path: Path):
    """The older form has two files."""
    _group(tmp_path, "cpu,cpuacct/job", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")

    assert _quota(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/job\n") == 2


@pytest.mark.parametrize("text", ["max 100000", "", "nonsense", "-1 100000"])
def test_no_quota(tmp_path: Path, text: str):
    """No limit, or nothing that can be read, is no quota."""
    _group(tmp_path, "job", cpu__max=text)

    assert _quota(tmp_path, "0::/job\n") is None


@pytest.mark.parametrize("backend", ["threads", "serial"])
@pytest.mark.parametrize("option", [{"env": {"A": "1"}}, {"preload": ("json",)}], ids=["env", "preload"])
def test_what_needs_processes_is_refused_elsewhere(backend: Any, option: Any):
    """An option that a backend could only ignore is refused when decorating."""
    with pytest.raises(ValueError, match=next(iter(option))):
        parmap.parallel(backend=backend, **option)
