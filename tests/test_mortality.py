"""Processes die, or stop for a while, before the lines of parmap's own code that they come to, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import pytest
from trials import Outcomes, Trial, Trials

if sys.implementation.name != "cpython" or sys.platform != "linux":
    pytest.skip("only CPython shows its lines, and only Linux hands orphans on", allow_module_level=True)
if not find_spec("numpy"):
    pytest.skip("numpy is missing", allow_module_level=True)

WARM = [
    "submit",
    "several",
    "map_in_threes",
    "map_of_longer",
    "imap_unordered",
    "large",
    "changes",
    "journal",
    "cancel",
    "chatter",
]
COLD = ["start", "initializer", "shutdown", "replaced"]
TRIALS: list[Trial] = [
    *[("mortality", case, "worker", "kill", "15") for case in WARM],
    *[("mortality", case, "worker", "exit", "4") for case in COLD],
    *[("mortality", case, "worker", "stop", "12") for case in ("submit", "map_in_threes", "large")],
    ("mortality", "timeout", "worker", "crash", "10"),
    ("mortality", "retries", "worker", "kill", "15"),
    *[("mortality", case, "worker", "together", "8") for case in ("several", "map_in_threes")],
    *[("mortality", case, "template", "kill", "4") for case in ("start", "cancel", "replaced")],
    ("mortality", "returns_twice", "forked", "kill", "10"),
    ("mortality", "map_in_threes", "fork", "kill", "10"),
    ("orphans", "held", "program", "6"),
    ("orphans", "start", "program", "6"),
    ("orphans", "deaf", "template", "4"),
]
LONG: list[Trial] = [
    *[("mortality", case, "worker", "kill", "all") for case in WARM],
    *[("mortality", case, "worker", "kill", "fine-1000") for case in ("submit", "map_in_threes")],
    *[("mortality", case, "worker", "kill", "again-300") for case in ("submit", "map_in_threes", "imap_unordered")],
    *[("mortality", case, "worker", "together", "300") for case in WARM],
    *[("mortality", case, "worker", way, "200") for case in (*COLD, "timeout", "forks") for way in ("exit", "stop")],
    *[("mortality", case, "template", way, "100") for case in (*COLD, "start_spawned") for way in ("kill", "stop")],
    *[
        ("mortality", case, who, "kill", "30")
        for case in ("submit", "large", "journal")
        for who in ("fork", "loky", "spawn")
    ],
    *[("orphans", case, who, "200") for case in ("held", "deaf", "start") for who in ("program", "template", "worker")],
]


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Other trials run beside each test: each looks by itself for what may be left."""


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """The trials that were chosen, some at a time."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    chosen = [item.callspec.params["trial"] for item in items]
    patience = 170 if all(trial in TRIALS for trial in chosen) else 3000
    with Trials(chosen, partial(tmp_path_factory.mktemp, "trial"), patience) as trials:
        yield trials.outcomes


@pytest.mark.timeout(180)
@pytest.mark.parametrize("trial", TRIALS, ids=" ".join)
def test_death_anywhere(trial: Trial, outcomes: Outcomes) -> None:
    """Who was running fails, nobody else does, and none runs again that has its result; the pool answers; nothing is left."""
    status, told = outcomes[trial].result()

    assert status == 0, told


@pytest.mark.soak
@pytest.mark.parametrize("trial", LONG, ids=" ".join)
def test_death_everywhere(trial: Trial, outcomes: Outcomes) -> None:
    """The same, at each place or at many."""
    status, told = outcomes[trial].result()

    assert status == 0, told
