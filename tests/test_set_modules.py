"""What a program sets in modules of its own at run time: workers import them as the files are, and the call says so."""

from __future__ import annotations

import gc
import importlib
import json
import sys
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock
from weakref import ref

import cloudpickle
import pytest

from parmap import Executor, parallel
from parmap._travel.code.needs.readings import others_than
from parmap._travel.code.needs.search import expected_by
from parmap._work.threads import HAS_GIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SETTINGS = """
import os
RATE = 3
NAME: str = "a"
DEPTH = -1
HOME = os.environ.get("NO_SUCH_VARIABLE") or "here"
MODE = "one" if HOME else "two"
SIZE = 10
SIZE = SIZE * 2
connection = cached = None
numbers = None
try:
    import no_such_module as numbers
except ImportError:
    numbers = None

def fetch(x):
    return "fetched", x

def connect():
    global cached
    cached = {}

@staticmethod
def decorated(x):
    return x
"""
MODEL = """
import settings
FACTOR = 1

class Net:
    def go(self, x):
        return x * FACTOR

def train(x):
    return Net().go(x), settings.fetch(x)

def made():
    def inner(x):
        return x * FACTOR
    return inner
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two modules of the program's own."""
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    yield SimpleNamespace(settings=importlib.import_module("settings"), model=importlib.import_module("model"))
    for name in ("settings", "model"):
        sys.modules.pop(name, None)


def reader(settings: Any) -> Callable[[int], Any]:
    """A function by value that reads variables of a module, and calls another function that does."""

    def look(x: int) -> Any:
        return x, settings.RATE, settings.NAME, settings.DEPTH

    return look


def test_a_constant_that_was_set(own: Any) -> None:
    """Each call is told of what its function reads, and of no more; what was set back is as it was."""
    f = parallel(reader(own.settings), workers=1)
    assert f.map([1]) == [(1, 3, "a", -1)]

    own.settings.RATE, own.settings.MODE, own.settings.connection = 5, "two", object()
    with pytest.warns(RuntimeWarning, match=r"look reads .*: settings\.RATE \(5\); .* initializer"):
        assert f.map([1]) == [(1, 3, "a", -1)]
    own.settings.RATE = 6
    with pytest.warns(RuntimeWarning, match=r"settings\.RATE \(6\)"):
        assert [*f.imap([1])] == [(1, 3, "a", -1)]

    own.settings.RATE = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f.map([1]) == [(1, 3, "a", -1)]


def test_where_the_warning_points(own: Any) -> None:
    """It is the line that calls."""
    own.settings.NAME = "b"
    with pytest.warns(RuntimeWarning, match=r"settings\.NAME") as told:
        parallel(reader(own.settings), workers=1).submit(1).result(60)
    with pytest.warns(RuntimeWarning, match=r"settings\.NAME") as told_too, Executor(1) as executor:
        executor.submit(reader(own.settings), 1).result(60)
    assert {each.filename for each in [*told, *told_too]} == {__file__}


def test_what_a_function_of_a_module_reads(own: Any) -> None:
    """Of its own module, through classes, and a function of another module that a test has replaced."""
    f = parallel(own.model.train, workers=1)
    assert f.map([1]) == [(1, ("fetched", 1))]
    own.model.FACTOR = 2
    own.settings.fetch = lambda x: ("made up", x)

    with pytest.warns(RuntimeWarning, match=r"model\.FACTOR \(2\), settings\.fetch"):
        assert f.map([1]) == [(1, ("fetched", 1))]


def quiet(function: Callable[[int], Any], **options: Any) -> Any:
    """What a function gives for 1 where nobody warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return parallel(function, workers=1, **options).map([1])[0]


def test_what_has_no_doubt_only(own: Any) -> None:
    """What the module itself may set is its own affair, and so is what travels by value."""
    settings = own.settings

    def look(x: int) -> Any:
        return (x, settings.connection, settings.numbers, settings.cached, settings.decorated is None)

    settings.connect()
    settings.connection, settings.numbers, settings.decorated = object(), sys, object()
    assert quiet(look) == (1, None, None, None, False)
    own.model.FACTOR = 7
    assert quiet(own.model.made()) == 7
    settings.fetch = parallel(settings.fetch)
    own.model.FACTOR = 1
    assert quiet(own.model.train)[0] == 1


def test_what_a_module_computes(own: Any) -> None:
    """Its file does not say what it is; workers, which compute it, too, do."""
    settings = own.settings
    settings.HOME, settings.SIZE = "there", 1

    def look(x: int) -> Any:
        return x, settings.HOME, settings.SIZE, settings.MODE

    assert told(look) == "settings.HOME, settings.SIZE (1)"  # no text, which may be a password
    settings.HOME, settings.SIZE, settings.MODE = "here", 20, "two"
    assert told(look) == "settings.MODE"


CONFIG = """
from dataclasses import dataclass
from enum import Enum
from json import dumps
from pathlib import Path
from settings import fetch
import os.path
from typing import NamedTuple

class Base:
    PORT = 80

class Config(Base):
    RATE = 60 * 60
    NAME: str = "a"
    CACHED = None

    def text(self):
        return "of the file"

    @classmethod
    def fill(cls):
        cls.CACHED = 1

class Kind(Enum):
    ONE = 1

class Pair(NamedTuple):
    left: int = 1

@dataclass
class Decorated:
    width: int = 1

class Registered:
    def __init_subclass__(cls):
        cls.LIMIT = 2

class Sub(Registered):
    LIMIT = 1

OPTIONS = {"rate": 1, "depth": {"of": [1, 2]}}
COLUMNS = ["a", "b"]
STATE = {"count": 0}
FILLED = {}

def count():
    STATE["count"] += 1

def use(x):
    return dumps(x), fetch(x)
"""


@pytest.fixture
def config(own: Any, tmp_path: Path) -> Iterator[Any]:
    """Another module of the program's own, with classes and containers."""
    (tmp_path / "config.py").write_text(CONFIG)
    importlib.invalidate_caches()
    yield importlib.import_module("config")
    sys.modules.pop("config", None)


def told(function: Callable[[int], Any]) -> str:
    """What a call warns of."""
    with pytest.warns(RuntimeWarning, match="reads what is not the same in workers") as found:
        parallel(function, workers=1).map([1])
    return str(found[0].message).partition("workers: ")[2].partition(";")[0]


def test_a_class_that_was_changed(config: Any) -> None:
    """Its constants and its methods, its own and those of what it is made from."""

    def look(x: int) -> Any:
        return config.Config.RATE, config.Config().text(), config.Config.PORT

    assert quiet(look) == (3600, "of the file", 80)
    config.Config.RATE = 5
    assert told(look) == "config.Config.RATE (5)"
    config.Config.RATE, config.Base.PORT = 3600, 443
    assert told(look) == "config.Base.PORT (443)"
    config.Base.PORT, config.Config.text = 80, lambda _: "made up"
    assert told(look).startswith("config.Config.text (")


def test_containers_that_were_changed(config: Any) -> None:
    """What was in them from the beginning is another by now, at any depth."""

    def look(x: int) -> Any:
        return config.OPTIONS["rate"], config.OPTIONS["depth"]["of"], config.COLUMNS

    assert quiet(look) == (1, [1, 2], ["a", "b"])
    config.COLUMNS.append("c")
    assert told(look) == "config.COLUMNS"  # texts
    config.COLUMNS.pop()
    config.OPTIONS["depth"]["of"][0] = 7
    assert told(look) == "config.OPTIONS['depth']['of'] ([7, 2])"
    config.OPTIONS["depth"]["of"][0] = 1
    config.OPTIONS["rate"] = True
    assert told(look) == "config.OPTIONS['rate'] (True)"


def test_mocks(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name is used, where it is from, and in a library: a worker has the true one, which a test wants to avoid."""

    def look(x: int) -> Any:
        return config.use(x), json.loads("1")

    assert quiet(look) == (("1", ("fetched", 1)), 1)
    with mock.patch("config.dumps", return_value="made up"):
        assert told(look).startswith("config.dumps (a mock)")
    with mock.patch("config.fetch"):
        assert told(look).startswith("config.fetch (a mock)")
    with mock.patch("json.loads"):
        assert told(look).startswith("json.loads (a mock)")
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda _: "made up")
        assert told(look).startswith("json.loads (")
    assert quiet(look) == (("1", ("fetched", 1)), 1)


def test_classes_and_containers_without_doubt_only(config: Any) -> None:
    """What others take part in making, what the module itself changes, and what is there to be filled."""
    config.Config.fill()
    config.count()
    config.FILLED["x"] = config.OPTIONS["new"] = 1

    def look(x: int) -> Any:
        config.Config.CACHED = config.Config.CACHED
        return (
            *(config.Kind.ONE.value, config.Pair.left is None, config.Decorated.width, config.Sub.LIMIT),
            *(config.STATE["count"], config.FILLED, config.OPTIONS["rate"], config.Config.CACHED),
        )

    assert quiet(look) == (1, False, 1, 2, 0, {}, 1, None)
    config.Decorated.width = 2
    assert quiet(look)[2] == 1


OBJECTS = """
import argparse, json, time, uuid
from types import SimpleNamespace

class Settings:
    def __init__(self):
        self.rate = 1
        self.count = 0
        self.model = SimpleNamespace(depth=2)

    def tick(self):
        self.count += 1

settings = Settings()
args = argparse.Namespace(level=3)
loaded = json.loads('{"lr": 0.1, "inner": {"n": 3}}')
cache = {"hits": 0}
RUN = uuid.uuid4().hex

def look_up():
    cache["hits"] += 1

def look(x):
    return settings.rate, settings.count, settings.model.depth, args.level, loaded["lr"], loaded["inner"]["n"], cache["hits"]

def own_run(x):
    return RUN

class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("it stands for nothing yet")

proxy = Proxy()

def ask_nobody(x):
    return x, (lambda: proxy.rate) and 1
"""
USERS = """
from objects import settings, loaded

def use(x):
    return settings.rate, loaded["lr"]
"""
STORERS = """
from objects import settings

def store(x):
    settings.rate = x
    return settings.rate
"""


@pytest.fixture
def objects(own: Any, tmp_path: Path) -> Iterator[Any]:
    """A module of the program's own that keeps settings in objects."""
    (tmp_path / "objects.py").write_text(OBJECTS)
    (tmp_path / "users.py").write_text(USERS)
    (tmp_path / "storers.py").write_text(STORERS)
    importlib.invalidate_caches()
    yield importlib.import_module("objects")
    for name in ("objects", "users", "storers"):
        sys.modules.pop(name, None)


def test_objects_that_were_changed(objects: Any) -> None:
    """Before the first call, which workers notice; and after it. Once each, however many workers there are."""
    use = importlib.import_module("users").use
    objects.args.level, objects.settings.model.depth = 9, 7
    objects.loaded["lr"], objects.loaded["inner"]["n"] = 0.5, 4
    objects.settings.tick()
    objects.look_up()
    with pytest.warns(RuntimeWarning, match="not the same in workers") as found:
        assert parallel(objects.look, workers=2).map(range(4)) == [(1, 0, 2, 3, 0.1, 3, 0)] * 4
    assert [str(each.message).partition("workers: ")[2].partition("; they")[0] for each in found] == [
        "objects.args.level (9), objects.loaded['inner']['n'] (4), objects.loaded['lr'] (0.5), objects.settings.model.depth (7)"
    ]

    objects.loaded["lr"] = 0.1
    f = parallel(use, workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f.map([1]) == [(1, 0.1)]
    objects.settings.rate = 5
    with pytest.warns(RuntimeWarning, match=r"users\.settings\.rate \(5\)"):
        assert f.map([1]) == [(1, 0.1)]
    objects.settings.rate = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f.submit(1).result() == (1, 0.1)
        objects.args.level = 8
        with pytest.raises(RuntimeWarning, match=r"objects\.args\.level \(8\)"):
            parallel(objects.look, workers=1, seed=1).map([1])


def test_what_changes_all_the_time(objects: Any) -> None:
    """A loop that sets something for each call is told of it a few times; it is not sent with each."""
    f = parallel(importlib.import_module("users").use, workers=1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for round_ in range(20):
            objects.settings.rate = round_
            assert f.map([1]) == [(1, 0.1)]
    assert 1 <= len(found) <= 4


def test_what_is_another_in_each_process(objects: Any) -> None:
    """A number of this run, that a module draws when it is imported."""
    assert told(objects.own_run) == "objects.RUN"


def test_objects_that_must_not_be_asked(objects: Any) -> None:
    """What stands for something else, and may say no: it is looked at from outside."""
    assert quiet(objects.ask_nobody) == (1, 1)


def test_objects_without_doubt_only(objects: Any) -> None:
    """What functions of the modules change, tasks may have changed."""
    objects.look_up()
    objects.settings.tick()
    store = importlib.import_module("storers").store
    assert quiet(store) == store(5) - 4
    objects.settings.rate = 1
    assert quiet(objects.look)[:2] == (1, 0)


def test_who_is_not_concerned(own: Any) -> None:
    """Threads have what was set, an initializer may see to it, and a module by value brings it along."""
    own.settings.RATE = 5
    look = reader(own.settings)
    assert quiet(look, backend="threads")[1] == quiet(look, backend="serial")[1] == 5
    assert quiet(look, initializer=set_rate)[1] == 5
    cloudpickle.register_pickle_by_value(own.settings)
    try:
        assert quiet(look)[1] == 5
    finally:
        cloudpickle.unregister_pickle_by_value(own.settings)


def set_rate() -> None:
    """What an initializer does about it."""
    importlib.import_module("settings").RATE = 5


def test_a_module_that_is_imported_again(own: Any, tmp_path: Path) -> None:
    """It is what the file says then that counts."""
    f = parallel(own.model.train, workers=1)
    own.model.FACTOR = 20
    with pytest.warns(RuntimeWarning, match="FACTOR"):
        f.map([1])
    (tmp_path / "model.py").write_text(MODEL.replace("FACTOR = 1", "FACTOR = 20"))
    importlib.invalidate_caches()
    assert quiet(importlib.reload(own.model).train)[0] == 20


@pytest.mark.skipif(
    sys.version_info < (3, 14) and not HAS_GIL, reason="there functions live for ever, once a thread was started"
)
def test_nothing_of_a_module_is_kept(own: Any) -> None:
    """It was looked through; when it is gone, so is all of it."""
    quiet(own.model.train)
    gone = ref(own.model.train), ref(own.model.Net)
    del own.model, sys.modules["model"]
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_odd_modules(own: Any, tmp_path: Path) -> None:
    """One whose file is gone, that has another name by now, or is not known any more, harms no call."""
    settings, look = own.settings, reader(own.settings)
    settings.RATE = 5
    for path in tmp_path.rglob("settings*"):
        path.unlink()
    try:
        expected = expected_by(cast("Any", look))
        settings.RATE = 7
        assert [*others_than(expected)] == []  # without a text, nobody knows whose doing it is
        settings.__name__ = "another"
        assert expected_by(cast("Any", reader(settings))) == b""
    finally:
        settings.__name__ = "settings"
    sys.modules.pop("settings")
    assert expected_by(cast("Any", look)) == b""
