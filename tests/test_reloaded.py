"""Modules that are edited and reloaded while workers have them: the next call has what the program has."""

from __future__ import annotations

import importlib
import os
import sys
from itertools import count
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
import tasks
from inspection import is_gone

import parmap
from conftest import wait_until
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

_times = count(1_000_000_000, 1000)  # of files: reloading looks at the seconds


class Edited:
    """A module, and one that it imports, whose files can be changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.write("edited_helper", "def rate():\n    return 1\n")
        self.write("edited", self.text(1))
        self.module: ModuleType = importlib.import_module("edited")
        self.helper: ModuleType = importlib.import_module("edited_helper")

    @staticmethod
    def text(number: int) -> str:
        return (
            f"import edited_helper\nLIMIT = {number}\n"
            f"class Task:\n    def run(self, x):\n        return x, LIMIT, {number}, edited_helper.rate()\n"
            "def work(x):\n    return Task().run(x)\n"
        )

    def write(self, name: str, text: str) -> None:
        path = self._folder / f"{name}.py"
        path.write_text(text)
        os.utime(path, (next(_times),) * 2)


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edited]:
    """A module of the program's own."""
    monkeypatch.syspath_prepend(tmp_path)
    yield Edited(tmp_path)
    for name in ("edited", "edited_helper"):
        sys.modules.pop(name, None)


def each_way(function: Callable[[Any], Any]) -> list[Any]:
    """What it gives for 1, in each way that there is: twice one task, the second on a worker that is there."""
    f = parallel(function, workers=2)
    return [f.submit(1).result(60), f.submit(1).result(60), *f.map([1]), *f.imap([1]), *f.map_async([1]).result(60)]


def import_again(module: ModuleType) -> ModuleType:
    """As web frameworks do that begin a page anew when a file has changed."""
    del sys.modules[module.__name__]
    return importlib.import_module(module.__name__)


@pytest.mark.parametrize("again", [importlib.reload, import_again])
def test_a_function_whose_module_was_reloaded(edited: Edited, again: Callable[[ModuleType], ModuleType]) -> None:
    """Its code, the globals and the classes of its module are those of the program; so is the function that it was."""
    before = edited.module.work
    assert each_way(before) == [(1, 1, 1, 1)] * 5

    edited.write("edited", edited.text(2))
    now = again(edited.module)

    assert each_way(now.work) == [now.work(1)] * 5 == [(1, 2, 2, 1)] * 5
    assert each_way(before) == [before(1)] * 5
    assert each_way(now.Task().run) == [(1, 2, 2, 1)] * 5


def test_a_module_that_others_use(edited: Edited) -> None:
    """It need not be that of the function."""
    f = parallel(edited.module.work, workers=2)
    assert f.map([1]) == [(1, 1, 1, 1)]

    edited.write("edited_helper", "def rate():\n    return 5\n")
    importlib.reload(edited.helper)

    assert [f.submit(1).result(60), *f.map([1])] == [f(1)] * 2 == [(1, 1, 1, 5)] * 2


def test_what_goes_on_while_a_module_is_reloaded(edited: Edited) -> None:
    """A stream that has begun keeps its workers, and loses nothing."""
    f = parallel(edited.module.work, workers=1)
    stream = f.imap(range(3000))
    begun = [next(stream)]
    edited.write("edited", edited.text(2))
    importlib.reload(edited.module)

    assert parallel(edited.module.work, workers=1).map([1]) == [(1, 2, 2, 1)]
    assert begun + list(stream) == [(number, 1, 1, 1) for number in range(3000)]


@pytest.mark.parametrize("uses", ["nothing", "a stream"])
def test_workers_that_have_the_old_module_end(edited: Edited, uses: str) -> None:
    """Nobody else is given them."""
    f = parallel(tasks.pid, workers=2)
    stream = iter(f.imap(range(5000))) if uses == "a stream" else iter([f(0)])
    next(stream)
    old = set(f.map(range(50)))
    importlib.reload(edited.module)

    assert not old & set(f.map(range(50)))
    list(stream)
    wait_until(lambda: all(map(is_gone, old)))


def test_a_module_that_travels_by_value_is_reloaded(edited: Edited) -> None:
    """There is no need for other workers."""
    cloudpickle.register_pickle_by_value(edited.module)
    try:
        f, where = parallel(lambda x: edited.module.work(x), workers=1), parallel(tasks.pid, workers=1)
        assert f.submit(1).result(60) == (1, 1, 1, 1)
        worker = where.submit(0).result(60)
        edited.write("edited", edited.text(2))
        importlib.reload(edited.module)

        assert f.submit(1).result(60) == (1, 2, 2, 1)
        assert where.submit(0).result(60) == worker
    finally:
        cloudpickle.unregister_pickle_by_value(edited.module)


def test_a_pool_of_ones_own_keeps_its_workers(edited: Edited) -> None:
    """Its owner says when they begin and end."""
    with parmap.Pool(1) as pool:
        worker = pool.apply(tasks.pid, (0,))
        importlib.reload(edited.module)

        assert pool.apply(tasks.pid, (0,)) == worker


def test_a_module_that_can_not_be_imported_again(edited: Edited) -> None:
    """Who tries it before each call has new workers once."""
    f = parallel(tasks.pid, workers=1)
    old = f.submit(0).result(60)
    edited.write("edited", "raise ImportError\n")
    del sys.modules["edited"]
    found = []
    for _ in range(3):
        with pytest.raises(ImportError):
            importlib.import_module("edited")
        found.append(f.submit(0).result(60))

    assert old not in found
    assert len({*found}) == 1
