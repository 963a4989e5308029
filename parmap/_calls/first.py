"""A program's first call: what runs calls is imported, while the first template starts."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from parmap._work.imports import let_forks_wait, whole
from parmap._work.threads import undisturbed

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap.backends._processes.spawning import Early


def load(options: Options) -> tuple[Early, Any]:
    """Import what runs calls, where no signal handler and no `__del__` that uses parmap finds half of it."""
    try:
        return undisturbed(partial(_load, None if sys.is_finalizing() else options), imports=True)
    except RuntimeError as error:  # no thread, at the end of the interpreter or ever: whoever needs one is told
        from parmap._travel.failure import pass_on

        pass_on(error)
        return _load(None)


def _load(options: Options | None) -> tuple[Early, Any]:
    let_forks_wait()
    with whole:
        from parmap.backends._processes.spawning import Early

        early = Early(options)
        from parmap._engine import pools

        return early, pools
