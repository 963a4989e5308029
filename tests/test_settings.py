"""Settings of libraries: what the program has chosen for all that it does, tasks find, too, as it was when they were called."""

from __future__ import annotations

import csv
import locale
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from parmap import parallel

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script


def look(name: str) -> Any:
    """What is set in a library."""
    return LOOKS[name](import_module(name))


def see_pandas(pd: Any) -> tuple[int, str]:
    return pd.get_option("display.max_rows"), str(pd.Series([0.5]))


LOOKS: dict[str, Callable[[Any], Any]] = {
    "csv": lambda module: module.field_size_limit(),
    "locale": lambda module: module.setlocale(module.LC_ALL),
    "socket": lambda module: module.getdefaulttimeout(),
    "numpy": lambda module: str(module.array([1 / 3, 1e-9])),
    "pandas": see_pandas,
    "sklearn": lambda module: module.get_config(),
    "PIL.Image": lambda module: module.MAX_IMAGE_PIXELS,
    "PIL.ImageFile": lambda module: module.LOAD_TRUNCATED_IMAGES,
    "ssl": lambda module: module._create_default_https_context.__name__,
    "scipy.special": lambda module: module.geterr()["singular"],
    "mpmath": lambda module: str(module.mpf(1) / 3),
    "matplotlib": lambda module: (module.rcParams["lines.linewidth"], module.rcParams["font.family"]),
}


@contextmanager
def replaced(get: Callable[[], Any], put: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def locales(value: str) -> Any:
    def now() -> str:
        return locale.setlocale(locale.LC_ALL)

    return replaced(now, lambda new: locale.setlocale(locale.LC_ALL, new), value)


def attribute(module: str, name: str, value: Any) -> Any:
    return mock.patch.object(import_module(module), name, value)


def printed(**options: Any) -> Any:
    return pytest.importorskip("numpy").printoptions(**options)


def options(name: str, value: Any) -> Any:
    return pytest.importorskip("pandas").option_context(name, value)


def configured(**settings: Any) -> Any:
    return pytest.importorskip("sklearn").config_context(**settings)


def precision(places: int) -> Any:
    return pytest.importorskip("mpmath").workdps(places)


def styled(**params: Any) -> Any:
    return pytest.importorskip("matplotlib").rc_context(
        {name.replace("_", "."): value for name, value in params.items()}
    )


SETTINGS: dict[str, Callable[[], Any]] = {
    "csv": lambda: replaced(csv.field_size_limit, csv.field_size_limit, 10**7),
    "locale": lambda: locales("C"),
    "socket": lambda: replaced(socket.getdefaulttimeout, socket.setdefaulttimeout, 30.0),
    "numpy": lambda: printed(precision=3, suppress=True),
    "numpy, a function": lambda: printed(formatter={"float": lambda x: f"<{x:.1f}>"}),
    "pandas": lambda: options("display.max_rows", 7),
    "pandas, a function": lambda: options("display.float_format", lambda x: f"<{x:.3f}>"),
    "sklearn": lambda: configured(transform_output="pandas", assume_finite=True),
    "PIL.Image": lambda: attribute("PIL.Image", "MAX_IMAGE_PIXELS", None),
    "PIL.ImageFile": lambda: attribute("PIL.ImageFile", "LOAD_TRUNCATED_IMAGES", value=True),
    "ssl": lambda: attribute("ssl", "_create_default_https_context", import_module("ssl")._create_unverified_context),
    "scipy.special": lambda: import_module("scipy.special").errstate(all="raise"),
    "mpmath": lambda: precision(40),
    "matplotlib": lambda: styled(lines_linewidth=7.5, font_family=["serif"]),
}


@pytest.mark.usefixtures("pools_stay")  # a worker imports large libraries once
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_are_the_callers(setting: str):
    """Whatever changes, each call finds it as it is then: also when it is set back, and when the task comes late."""
    name = setting.partition(",")[0]
    pytest.importorskip(name)
    f = parallel(look, workers=1)
    usual = look(name)
    assert f.map([name] * 4) == [usual] * 4
    with SETTINGS[setting]():
        assert look(name) != usual
        if name != "locale":  # that of the last batch, for single tasks
            assert f.submit(name).result() == look(name)
        assert f.map([name] * 4) == [look(name)] * 4
        assert [*f.imap([name] * 2)] == [look(name)] * 2
        assert f.submit(name).result() == look(name)
        later, expected = f.submit(name), look(name)
    assert later.result() == expected
    assert f.map([name] * 4) == [usual] * 4
    assert f.submit(name).result() == usual


PLOTS = """
import parmap
{settings}

def plot(x):
    import matplotlib, mpmath, numpy as np
    return matplotlib.rcParams["axes.grid"], mpmath.mp.dps, str(np.array([1 / 3]))

f = parmap.parallel(plot, workers=2, {option})
if __name__ == "__main__":
    assert f.map(range(4)) == [(True, 50, "[0.33]")] * 4, f.map(range(4))
    assert f.submit(1).result() == f(1)
"""


@pytest.mark.parametrize("option", ['start_method="forkserver"', 'start_method="spawn"', "preload=[]"])
def test_settings_at_the_top_of_a_script(script: Script, option: str):
    """Where most programs have them: before workers are started, and whoever imports the library there."""
    if any(find_spec(name) is None for name in ("matplotlib", "mpmath", "numpy")):
        pytest.skip("needs libraries")
    settings = """
import matplotlib, mpmath, numpy
matplotlib.rcParams["axes.grid"] = True
mpmath.mp.dps = 50
numpy.set_printoptions(precision=2)
"""
    run = script.run(PLOTS.format(settings=settings, option=option))

    assert (run.stdout, run.stderr) == ("", "")


def set_limits(size: int) -> None:
    csv.field_size_limit(size)


def test_settings_of_an_initializer(processes: dict[str, Any]):
    """What it chooses holds, whatever the program says later of the same library; of others the program has its say."""
    f = parallel(look, initializer=set_limits, initargs=(12345,), **processes)
    assert f.map(["csv"] * 4) == [12345] * 4
    with SETTINGS["csv"](), SETTINGS["socket"]():
        assert f.map(["csv", "socket"] * 2) == [12345, 30.0] * 2


def set_timeout() -> None:
    socket.setdefaulttimeout(7.0)


def test_a_timeout_of_an_initializer(processes: dict[str, Any]):
    """It is a setting like any other."""
    f = parallel(look, initializer=set_timeout, **processes)
    with SETTINGS["socket"]():
        assert f.map(["socket"] * 2) == [7.0] * 2


def test_settings_of_a_stand_in(processes: dict[str, Any]):
    """A test may have put one into the place of a library: it has no settings, and stops no call."""
    stands_in = mock.patch.dict(sys.modules, {"gmpy2": mock.NonCallableMock(spec=[]), "mpmath": mock.MagicMock()})
    with stands_in, mock.patch("parmap._work.settings.libraries._ways", {}):
        assert parallel(abs, **processes).map([-1]) == [1]


def test_settings_that_cannot_travel():
    """What can't be sent is left out, and the others are not."""
    f = parallel(look, workers=1)
    endless = (x for x in range(3))
    with options("display.max_rows", 7):
        before = f.map(["pandas"])[0]
        with options("display.float_format", lambda x: f"{x} {endless}"), options("display.max_rows", 8):
            found = f.map(["pandas"])[0]

    assert found == (8, before[1])


def echo(data: bytes) -> int:
    """It is large, and waits for longer than connections may."""
    threading.Event().wait(0.1)
    return len(data)


def test_a_short_time_for_connections(processes: dict[str, Any]):
    """How long sockets wait is a matter of those of the tasks, not of parmap's own."""
    with replaced(socket.getdefaulttimeout, socket.setdefaulttimeout, 0.01):
        f = parallel(echo, **processes)
        assert f.map([bytes(2_000_000)] * 4) == [2_000_000] * 4
        assert f.submit(b"x").result() == 1


def test_settings_that_are_going_to_be_removed():
    """Of those the program was warned; it is not warned once more by each worker."""
    pd = pytest.importorskip("pandas")
    name = "mode.copy_on_write"
    f = parallel(look, workers=1)
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        pd.set_option(name, pd.get_option(name))
        told = len(recorded)
        f.map(["pandas"] * 4)

    assert len(recorded) == told


def test_other_libraries_of_these_names(script: Script, tmp_path: Path):
    """Modules of the program's own that have no such settings are modules like any others."""
    names = ["pandas", "xarray", "torch", "jax", "gmpy2", "matplotlib"]
    for name in names:
        (tmp_path / f"{name}.py").write_text("value = 7\n")
    run = script.run(f"""
import parmap
import {", ".join(names)}

for module in ({", ".join(names)}):
    def read(x):
        return module.__name__, module.value + x

    print(*parmap.parallel(read, workers=2).map([1, 2]), parmap.parallel(read, workers=2).submit(3).result())
""")

    assert run.stderr == ""
    assert run.stdout.splitlines() == [f"{(name, 8)} {(name, 9)} {(name, 10)}" for name in names]
