"""Executors that a death has broken: some can be made again, as they were.

Which item broke one, `executor` finds out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import concurrent.futures


def is_broken(executor: Any) -> bool:
    """Whether an executor takes no more work, since one of its workers died: the standard one, or loky's."""
    flags = getattr(executor, "_flags", None)
    return bool(getattr(executor, "_broken", False) or getattr(flags, "broken", None))


def made_again(executor: Any) -> concurrent.futures.Executor | None:
    """A new executor like one that is broken; `None`: how it was made is not known."""
    for kind in type(executor).__mro__:
        package = kind.__module__.partition(".process_executor")[0]
        if kind.__name__ != "ProcessPoolExecutor":
            continue
        how = {"initializer": executor._initializer, "initargs": executor._initargs}  # noqa: SLF001
        if kind.__module__ == "concurrent.futures.process":
            how["mp_context"] = executor._mp_context  # noqa: SLF001
            how["max_tasks_per_child"] = executor._max_tasks_per_child  # noqa: SLF001
        elif package.rpartition(".")[2] == "loky":
            how |= {"context": executor._context, "env": executor._env}  # noqa: SLF001
        else:
            continue
        made: concurrent.futures.Executor = getattr(sys.modules[kind.__module__], kind.__name__)(
            executor._max_workers,  # noqa: SLF001
            **how,
        )
        return made
    return None
