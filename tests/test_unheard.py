"""Failures that nobody asks for: the log tells of them, once nobody can ask any more; and of no others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import operator
from typing import TYPE_CHECKING, Any

import pytest

import parmap
from conftest import wait_until
from parmap import Executor, Pool, parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Script


TASK = """
def fail_if_odd(x):
    if x % 2:
        raise ValueError(x)
    return x
"""
_lines = itertools.count()


@pytest.fixture
def fail_if_odd() -> Any:
    """A task that may raise, unlike any other."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("\n" * next(_lines) + TASK, space)
    return space["fail_if_odd"]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has, in a line each: of all that is gone."""
    gc.collect()  # without the GIL, what goes is found later
    return [record.getMessage().splitlines()[0] for record in caplog.records if record.name == "parmap"]


NAMES = "a task of fail_if_odd failed, and nobody asked for its result"


def test_futures_that_are_dropped(caplog: pytest.LogCaptureFixture, fail_if_odd: Any, backend: dict[str, Any]) -> None:
    """The first error of a kind has its traceback, others are told in a line; who kept the future, may still ask."""
    f = parallel(fail_if_odd, **backend)
    kept = f.submit(0)
    f.submit(1)
    wait_until(lambda: told(caplog) == [NAMES])
    record = caplog.records[-1]
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert isinstance(record.exc_info[1], ValueError)

    f.submit(3)
    wait_until(lambda: told(caplog) == [NAMES, f"{NAMES}: ValueError: 3 (parmap: fail_if_odd(3))"])
    assert kept.result(60) == 0


def test_a_future_that_is_kept(caplog: pytest.LogCaptureFixture, fail_if_odd: Any, backend: dict[str, Any]) -> None:
    """Nothing is told as long as somebody has it."""
    f = parallel(fail_if_odd, **backend)
    kept = [f.submit(1)]
    concurrent.futures.wait(kept, 60)
    assert told(caplog) == []

    del kept[:]
    wait_until(lambda: told(caplog) == [NAMES])


def ask(future: Any) -> None:
    with pytest.raises(ValueError, match="1"):
        future.result(60)


async def wait_for(future: Any) -> None:
    with pytest.raises(ValueError, match="1"):
        await future


async def wait_for_wrapped(future: Any) -> None:
    with pytest.raises(ValueError, match="1"):
        await asyncio.wrap_future(future)


def call_back(future: Any) -> None:
    seen: list[Any] = []
    future.add_done_callback(lambda ended: seen.append(ended.exception()))
    wait_until(lambda: seen)


def cancel(future: Any) -> None:
    concurrent.futures.wait([future], 60)
    assert not future.cancel()


WAYS: dict[str, Callable[[Any], object]] = {
    "result": ask,
    "exception": lambda future: future.exception(60),
    "successful": lambda future: future.async_result.wait(60) or future.async_result.successful(),
    "await": lambda future: asyncio.run(wait_for(future)),
    "wrap_future": lambda future: asyncio.run(wait_for_wrapped(future)),
    "as_completed": lambda future: [each.exception() for each in concurrent.futures.as_completed([future])],
    "add_done_callback": call_back,
    "cancel": cancel,
    "shown": lambda future: future.exception(60) and future._repr_html_(),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_asks_is_not_told_again(caplog: pytest.LogCaptureFixture, fail_if_odd: Any, way: str) -> None:
    """Whichever way they ask; cancelling says that nobody wants to know."""
    WAYS[way](parallel(fail_if_odd, workers=1).submit(1))
    parmap.shutdown()
    assert told(caplog) == []


def test_who_has_seen_one_error_knows(caplog: pytest.LogCaptureFixture, fail_if_odd: Any) -> None:
    """The others of a loop that ended at the first are not told."""
    futures = [parallel(fail_if_odd, workers=1, timeout=60 + x).submit(x) for x in range(6)]
    with pytest.raises(ValueError, match="1"):
        [each.result(60) for each in futures]
    concurrent.futures.wait(futures, 60)
    del futures
    parmap.shutdown()
    assert told(caplog) == []


def test_builtins_are_several(caplog: pytest.LogCaptureFixture) -> None:
    """Who has seen an error of one of them knows nothing of the others."""
    assert parallel(operator.truediv, workers=1).submit(1, 0).exception(60)
    assert parallel(int, workers=1).submit("x").exception(60)
    for function in (operator.index, float):
        parallel(function, workers=1).submit("x")
    parmap.shutdown()
    wait_until(lambda: len(told(caplog)) == 2)
    assert {line.split()[3] for line in told(caplog)} == {"index", "float"}


def test_tasks_that_were_dropped(caplog: pytest.LogCaptureFixture, fail_if_odd: Any) -> None:
    """Who closes the pool, or cancels, knows what becomes of them."""
    f = parallel(fail_if_odd, workers=1)
    futures = [f.submit(x) for x in (0, 2, 4)]
    f.shutdown(cancel_futures=True)
    del futures
    assert told(caplog) == []


def test_a_batch(caplog: pytest.LogCaptureFixture, fail_if_odd: Any) -> None:
    """It is as a task is."""
    parallel(fail_if_odd, workers=1).map_async(range(4))
    parmap.shutdown()
    wait_until(lambda: told(caplog) == [NAMES])


def test_what_stands_in_for_a_standard_class(caplog: pytest.LogCaptureFixture, fail_if_odd: Any) -> None:
    """They tell nothing."""
    with Executor(1) as executor:
        executor.submit(fail_if_odd, 1)
    with Pool(1) as pool:
        pool.apply_async(fail_if_odd, (1,))
        pool.close()
        pool.join()
    assert told(caplog) == []


SCRIPT = """
from parmap import parallel

@parallel(workers=2)
def f(x):
    if x % 2:
        raise ValueError(x)

"""


@pytest.mark.parametrize("made", ["f.submit(1)", "kept = f.submit(1)", "kept = [f.submit(1)]; kept.append(kept)"])
def test_a_script_that_ends(script: Script, made: str) -> None:
    """It is told at the latest at the end, with nothing set up for logging."""
    done = script.run(f"{SCRIPT}{made}\nprint('end')")
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert done.stderr.startswith("a task of f failed, and nobody asked for its result\n")
    assert done.stderr.count("raise ValueError(x)") == 1
    assert done.stderr.endswith("ValueError: 1\nparmap: f(1)\n")


def test_a_script_that_fails(script: Script) -> None:
    """Its own error is told, and nothing else."""
    done = script.run(f"{SCRIPT}kept = [f.submit(x) for x in range(8)]\nkept[0].result()\nraise LookupError('mine')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("LookupError: mine\n")
    assert "ValueError" not in done.stderr


def test_a_process_that_is_forked(script: Script) -> None:
    """It tells of what it has begun."""
    done = script.run(f"""{SCRIPT}
import os, concurrent.futures
kept = [f.submit(1)]
concurrent.futures.wait(kept)
pid = os.fork()
if not pid:
    del kept[:]
    raise SystemExit
os.waitpid(pid, 0)
print(len(kept))
""")
    assert done.stdout == "1\n"
    assert done.stderr.count("raise ValueError(x)") == 1
