"""Ctrl-C, an alarm that raises, and a handler that uses the pool, at every place where Python could let them in."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from injection import CASES, DEAR, Injector
from trials import Outcomes, Trials

if TYPE_CHECKING:
    from conftest import Script

if not hasattr(sys, "settrace") or sys.implementation.name != "cpython":
    pytest.skip("only CPython can be interrupted at a chosen instruction", allow_module_level=True)

SIGNALS = ("SIGINT", "SIGUSR1", "SIGALRM")
MAY_RAISE = {"await": SIGNALS[:2]}  # what is raised in a callback of an event loop is told to the loop
TRIALS = [(case, ",".join(MAY_RAISE.get(case, SIGNALS)), "some" if case in DEAR else "every") for case in CASES]
TRIALS += [(case, ",".join(SIGNALS), "pairs") for case in ("submit", "imap")]


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Other trials run beside each test: each looks by itself for what it may have left."""


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """The trials that were chosen, some at a time."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    chosen = [("injection", *item.callspec.params["trial"]) for item in items]
    patience = 1800 if any(trial[-1] == "all" for trial in chosen) else 170
    with Trials(chosen, partial(tmp_path_factory.mktemp, "trial"), patience) as trials:
        yield trials.outcomes


def test_all_places_of_a_new_function_are_seen() -> None:
    """The first call shows as many as the next one."""
    names: dict[str, Any] = {}
    exec("def new(numbers):\n    for number in numbers:\n        len([number])\n", names)
    counts = []
    for _ in range(2):
        counter = Injector(signal.SIGINT)
        counter.run(partial(names["new"], range(3)))
        counts.append(counter.count)
    assert counts[0] == counts[1] > 6


@pytest.mark.timeout(180)
@pytest.mark.parametrize("trial", TRIALS, ids=" ".join)
def test_interrupted_anywhere(trial: tuple[str, str, str], outcomes: Outcomes) -> None:
    """The pool answers afterwards, no interrupt is swallowed, each task ran once or its call failed, nothing is lost."""
    status, told = outcomes["injection", *trial].result()

    if status == 3:
        pytest.skip("this Python shows no places where it looks for signals")
    assert status == 0, told


@pytest.mark.soak
@pytest.mark.parametrize("trial", [(case, number, "all") for case in sorted(DEAR) for number in SIGNALS], ids=" ".join)
def test_interrupted_anywhere_as_pools_come_and_go(trial: tuple[str, str, str], outcomes: Outcomes) -> None:
    """The same at each place of the calls that start a pool or end one."""
    status, told = outcomes["injection", *trial].result()

    assert status == 0, told


LOOP = """
import signal, sys
from parmap import parallel

f = parallel(abs, workers=1)
f.submit(1).result()
try:
    print("ready", flush=True)
    while True:
        f.submit(-3).result()
except KeyboardInterrupt:
    pass
assert f.submit(-7).result(timeout=10) == 7 and f.map([-1, -2]) == [1, 2]
print("works", flush=True)
"""


def _press_at_random(script: Script, times: int) -> None:
    chance = random.Random(times)
    for _ in range(times):
        process = script.start(LOOP)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.03))  # the moment doesn't matter: any will do
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, stdout, stderr) == (0, "works\n", "")


def test_a_loop_of_single_tasks_is_interrupted(script: Script) -> None:
    """After a Ctrl-C at a random moment the program goes on with its pool, and ends."""
    _press_at_random(script, 5)


@pytest.mark.soak
def test_a_loop_of_single_tasks_is_interrupted_300_times(script: Script) -> None:
    """Not one of 300 programs is stuck."""
    _press_at_random(script, 300)
