"""Tasks that fail, die or hang the first times that they are tried: importable, so that they travel by name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import uuid4


def flaky(where: tuple[str, int, int]) -> int:
    """A task that raises the first so many times."""
    folder, number, times = where
    attempt = len(list(Path(folder).glob(f"{number}-*")))
    Path(folder, f"{number}-{attempt}").touch()
    if attempt < times:
        raise OSError(f"attempt {attempt} of {number}")
    return number


def dies_at_first(where: tuple[str, int]) -> int:
    """A task whose worker dies the first time."""
    folder, number = where
    try:
        Path(folder, str(number)).touch(exist_ok=False)
    except FileExistsError:
        return number
    os._exit(1)


def fails_in_turn(where: tuple[str, int]) -> int:
    """A task that raises, then dies, then hangs, then returns."""
    folder, number = where
    attempt = len(list(Path(folder).glob(f"{number}-*")))
    Path(folder, f"{number}-{attempt}").touch()
    if attempt == 0:
        raise KeyError(number)
    if attempt == 1:
        os._exit(5)
    if attempt == 2:
        time.sleep(3600)
    return number


def starts_and_hangs(folder: str) -> None:
    """Notes each attempt, none of which ends."""
    (Path(folder) / uuid4().hex).touch()
    time.sleep(60)


def says_much(_: int) -> None:
    """Fail with what a server has answered, say."""
    raise ValueError("x" * 1_000_000)
