"""Tasks that tell what they see of the program's world: importable, so that they travel by name."""

from __future__ import annotations

import decimal
import logging
import os
import sys
import warnings
from typing import Any


def world(_: Any = None) -> dict[str, Any]:
    """What a task sees."""
    # From 3.14 on a context may have filters of its own: on builds without the GIL it has.
    filters = getattr(warnings, "_get_filters", lambda: warnings.filters)()
    return {
        "cwd": os.getcwd(),
        "path": sys.path[-1],
        "argv": sys.argv[-1],
        "mine": os.environ.get("MINE"),
        "recursion": sys.getrecursionlimit(),
        "digits": sys.get_int_max_str_digits(),
        "filter": filters[0][0] if filters else "",
        "level": logging.getLogger("of the world").level,
    }


def third(_: Any = None) -> str:
    """A result that depends on the decimal arithmetic of the caller."""
    return str(decimal.Decimal(1) / 3)


def third_and_spoil(_: Any = None) -> str:
    """The same; it leaves another arithmetic behind."""
    result = third()
    decimal.getcontext().prec = 2
    return result


def divide(_: Any = None) -> str:
    """A result that depends on how the caller has numpy take errors of floats."""
    import numpy as np

    try:
        return str(np.array([1.0]) / np.zeros(1))
    except FloatingPointError:
        return "raised"


def divide_and_spoil(_: Any = None) -> str:
    """The same; it leaves another way behind."""
    import numpy as np

    result = divide()
    np.seterr(divide="ignore")
    return result


def here(_: Any = None) -> str:
    """A task that tells its working directory."""
    return os.getcwd()


def go_elsewhere(folder: str) -> str:
    """A task that changes its working directory."""
    os.chdir(folder)
    return os.getcwd()


def arguments(_: Any) -> list[str]:
    """A task that reads the command line."""
    return list(sys.argv)


def variables(*names: str) -> list[str | None]:
    """A task that looks at its environment."""
    return [os.environ.get(name) for name in names]
