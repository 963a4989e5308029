"""Functions that tests run in workers, for other libraries: importable, so that they travel by name."""

from __future__ import annotations

import os
from typing import Any


def joblib_in_joblib(options: dict[str, Any]) -> tuple[int, set[int]]:
    """The process of a task, and those of the tasks of a `joblib.Parallel` inside of it."""
    import joblib

    import parmap.joblib  # noqa: F401 - registers the backend

    return os.getpid(), set(joblib.Parallel(**options)(joblib.delayed(os.getpid)() for _ in range(8)))
