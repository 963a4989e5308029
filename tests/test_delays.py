"""Each thread in turn is held up at each line of parmap's that it comes through, while the others go on."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from delays import CASES

import parmap

HERE = Path(__file__).parent


def run(case: str, how: str) -> tuple[int, str]:
    """Try one case in a process of its own; its status, and what it says."""
    paths = [str(HERE), str(Path(parmap.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, str(HERE / "delays.py"), case, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    return done.returncode, done.stdout


def test_held_up_somewhere() -> None:
    """Every result is right, every call comes to its end, and nothing is left or said."""
    with ThreadPoolExecutor() as threads:
        outcomes = list(threads.map(run, CASES, ["some"] * len(CASES)))
    assert outcomes == [(0, f"{case}: 0 wrong\n") for case in CASES]


@pytest.mark.soak
@pytest.mark.parametrize("how", ["every", "pairs"])
@pytest.mark.parametrize("case", CASES)
def test_held_up_anywhere(case: str, how: str) -> None:
    """The same at each place, and at two at once."""
    assert run(case, how) == (0, f"{case}: 0 wrong\n")
