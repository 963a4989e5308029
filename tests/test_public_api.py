"""The public names: complete, documented, light."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any, Optional, ParamSpec, TypeVar, get_args, get_origin

import pytest

import parmap
import parmap.backends
import parmap.testing
from parmap.backends import Threads

HEAVY = ["asyncio", "cloudpickle", "concurrent.futures", "dataclasses", "inspect", "logging", "multiprocessing"]
HEAVY += ["subprocess", "parmap.pool", "typing_extensions", "dask", "ray", "tqdm", "numpy", "joblib"]


def test_all_is_sorted():
    """Names are where one looks for them."""
    assert parmap.__all__ == sorted(set(parmap.__all__))


@pytest.mark.parametrize("name", parmap.__all__)
def test_importable(name: str):
    """Every public name is there."""
    assert getattr(parmap, name) is not None
    assert name in dir(parmap)


@pytest.mark.parametrize("name", sorted(set(parmap.__all__) - {"__version__", "errors"}))
def test_documented(name: str):
    """Every public name has a docstring, and so has every public method of it."""
    value = getattr(parmap, name)
    members = vars(value).items() if inspect.isclass(value) else ()
    methods = {key: each for key, each in members if callable(each) or hasattr(each, "__get__")}
    undocumented = [key for key, each in methods.items() if not key.startswith("_") and not inspect.getdoc(each)]

    assert value.__doc__
    assert undocumented == []


def test_star_import():
    """``from parmap import *`` gives the names of ``__all__``."""
    names: dict[str, object] = {}
    exec("from parmap import *", names)

    assert set(parmap.__all__) <= set(names)


def test_unknown_name():
    """A name that is not there is an AttributeError that says so, and has what Python needs to say what was meant."""
    for module in (parmap, parmap.backends):
        with pytest.raises(AttributeError, match="no attribute 'dask'") as caught:
            _ = module.dask

        assert (caught.value.name, caught.value.obj) == ("dask", module)


def test_a_method_in_the_place_of_a_function():
    """Another package named parmap has `parmap.map`: who expects that is told where it is here."""
    with pytest.raises(
        AttributeError, match=r"no attribute 'starmap': it is a method, parmap\.parallel\(function\)\.starmap$"
    ):
        parmap.starmap(pow, [(1, 2)])  # type: ignore[attr-defined]


def test_errors_are_the_same():
    """The classes of ``parmap.errors`` are those of ``parmap``."""
    for name in parmap.errors.__all__:
        assert getattr(parmap, name) is getattr(parmap.errors, name)


def _python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.strip()


def test_import_is_light():
    """Importing and decorating load nothing heavy: the engine and what it takes come with the first call."""
    code = (
        "import sys; before = set(sys.modules); import parmap\n"
        "f = parmap.parallel(workers=2, timeout=3)(len); f(''); f.options(workers=3); parmap.shutdown()\n"
        f"print(sorted(set({HEAVY}) & (set(sys.modules) - before)))"
    )

    assert _python(code) == "[]"


def test_decorating_starts_nothing():
    """Decorating starts neither threads nor processes."""
    code = (
        "import os, threading, parmap; f = parmap.parallel(workers=2)(len); parmap.override(workers=3); f('')\n"
        "children = open('/proc/self/task/%d/children' % os.getpid()).read() if os.path.exists('/proc/self') else ''\n"
        "print(threading.active_count(), children)"
    )

    assert _python(code) == "1"


def test_version():
    """The version is a version."""
    assert parmap.__version__.count(".") == 2


def test_public_modules():
    """What has no underscore is for users: these modules."""
    modules = {module.name for module in pkgutil.walk_packages(parmap.__path__, "parmap.")}
    public = {name for name in modules if not any(part.startswith("_") for part in name.split("."))}
    doors = {"backends", "errors", "executor", "joblib", "pool", "testing"}

    assert public == {f"parmap.{name}" for name in doors}


@pytest.mark.parametrize("name", parmap.backends.__all__)
def test_backends(name: str):
    """Every public name of ``parmap.backends`` is there, and documented."""
    assert getattr(parmap.backends, name).__doc__
    assert name in dir(parmap.backends)


class Forgetful(Threads):
    """Loses the items that it is given."""

    def start(self, chunk: Any, mode: str) -> int:
        """Take all of them, and do nothing."""
        return len(chunk.items)


def test_a_backend_that_loses_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of backends says what is waited for in vain, and waits no longer."""
    monkeypatch.setattr(parmap.testing, "PATIENCE", 0.5)

    with pytest.raises(AssertionError, match="in vain: results come in order"):
        parmap.testing.check_backend(Forgetful)


def test_type_arguments():
    """What annotations say of a parallel function holds at run time, too, and lets itself be looked at."""
    function = parmap.ParallelFunction[[int], str]
    item, result, parameters = TypeVar("item"), TypeVar("result"), ParamSpec("parameters")

    assert get_args(Optional[function]) == (function, type(None))  # noqa: UP045 - what older code says
    assert {function: 1}[parmap.ParallelFunction[[int], str]] == 1
    assert parmap.ParallelFunction[[item], result][int, str] == function
    assert parmap.ParallelFunction[parameters, result][[int], str] == function
    assert get_origin(parmap.ParallelFunction[[int], str, Coroutine[Any, Any, str]]) is parmap.ParallelFunction
    with pytest.raises(TypeError, match="Too few arguments"):
        parmap.ParallelFunction[int]  # type: ignore[type-arg, misc]
