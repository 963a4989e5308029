"""Programs that end, or fork, while one of their threads is anywhere in parmap."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import endings
import pytest

import parmap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and adopts orphans")

HERE = Path(__file__).parent
SOME = [
    ("submit", "finish,atexit", "processes"),
    ("map", "fork_use,cold", "threads"),
    ("imap", "fork_use", "processes"),
    ("executor", "fail,daemon", "processes"),
    ("retire", "exit,daemon,cold", "processes"),
    ("many", "finish,del,daemon", "threads"),
]
MORE = ("", ",daemon", ",cold", ",main", ",atexit", ",del", ",daemon,atexit", ",daemon,del", ",daemon,cold")

FORKS = [end for end in endings.ENDS if end.startswith("fork") or end in {"process", "preexec", "pty"}]


def run(case: str, end: str, backend: str, how: str, folder: Path) -> str:
    """Try one case in a process of its own; what was wrong."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "endings.py"), case, end, backend, how, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(Path(parmap.__file__).parent.parent)])},
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout


def test_some_endings(tmp_path: Path) -> None:
    """Work is finished or dropped as promised, nothing is said that need not be, nobody hangs, nothing is left."""
    with ThreadPoolExecutor(3) as threads:
        wrong = list(threads.map(lambda at: run(*SOME[at], "3", tmp_path / str(at)), range(len(SOME))))
    assert wrong == [""] * len(SOME)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["processes", "threads"])
@pytest.mark.parametrize("case", endings.CASES)
def test_many_endings(case: str, backend: str, tmp_path: Path) -> None:
    """The same for many ends, and at more places."""
    chance = random.Random(f"{case} {backend}")
    ends = [end + chance.choice(MORE[:1] if end in FORKS else MORE) for end in endings.ENDS]
    for end in chance.sample(ends, 5):
        assert run(case, end, backend, "8", tmp_path / end) == ""
