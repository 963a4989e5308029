"""Executors that a death has broken: some can be made again, as they were.

Which item broke one, `executor` finds out.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any


def is_broken(executor: Any) -> bool:
    """Whether an executor takes no more work, since one of its workers died: the standard one, or loky's."""
    flags = getattr(executor, "_flags", None)
    return bool(getattr(executor, "_broken", False) or getattr(flags, "broken", None))


def kind_of(executor: Any) -> Any:
    """The class of the standard library's, or of loky's, for processes of this machine; `None`: it is of neither."""
    for kind in type(executor).__mro__:
        if kind.__name__ == "ProcessPoolExecutor" and kind.__module__.endswith(_HOMES):
            return kind
    return None


_HOMES = "concurrent.futures.process", "loky.process_executor"  # joblib has the latter among its own modules


def made_again(executor: Any) -> concurrent.futures.Executor | None:
    """A new executor like one that is broken; `None`: how it was made is not known."""
    kind = kind_of(executor)
    if kind is None:
        return None
    names = ["initializer", "initargs"]
    names += ["mp_context", "max_tasks_per_child"] if kind.__module__ == _HOMES[0] else ["context", "env"]
    how = {name: getattr(executor, f"_{name}") for name in names}
    made: concurrent.futures.Executor = kind(executor._max_workers, **how)  # noqa: SLF001
    return made
