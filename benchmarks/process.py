"""Running a cell in a process of its own, and leaving nothing behind, whatever it started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent
MARK = "PARMAP_BENCHMARK_CELL"
LIMITED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(scratch: Path, mark: str) -> dict[str, str]:
    """The same for all: modules are found, numpy has one thread, files go to *scratch*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PARMAP_", "PYTHON"))}
    return {
        **kept,
        **dict.fromkeys(LIMITED, "1"),
        MARK: mark,
        "PYTHONPATH": str(HERE),
        "PYTHONWARNINGS": "ignore",
        "TMPDIR": str(scratch),
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DASK_TEMPORARY_DIRECTORY": str(scratch),
    }


def end_marked(mark: str) -> None:
    """Kill what a cell has left behind: daemons may be nobody's child any more, but they keep its environment."""
    for process in psutil.process_iter():
        try:
            # Trackers remove the semaphores of those who are killed here, and then leave.
            if process.environ().get(MARK) == mark and "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()
        except psutil.Error:  # it has just ended, or is another user's
            pass


def run_python(arguments: Sequence[str], scratch: Path, limit: float) -> tuple[list[dict[str, Any]], str]:
    """Run a script that writes a list of JSON objects into the file that is its first argument; *limit* in seconds.

    Returns what it wrote, and how it failed if it did: "timeout" or what it said last.
    """
    mark = uuid.uuid4().hex
    output, log = scratch / f"{mark}.json", scratch / f"{mark}.log"
    script, *rest = arguments
    begin = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), str(output), *rest],
            cwd=HERE,
            env=environment(scratch, mark),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            # The answer is what counts: some contestants take their time to leave, or never do.
            while process.poll() is None and not output.exists() and time.perf_counter() - begin < limit:
                time.sleep(0.005)
            if output.exists():
                process.wait(1.0)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_marked(mark)
            process.wait()
    if output.exists():
        return json.loads(output.read_text()), ""
    part = Path(f"{output}.part")
    answers = json.loads(part.read_text()) if part.exists() else []
    if time.perf_counter() - begin >= limit:
        return answers, "timeout"
    tail = log.read_text(errors="replace").strip().splitlines()[-1:]
    return answers, f"exit code {process.returncode}: {''.join(tail)[:200]}"
