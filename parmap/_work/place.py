"""Whether this process is a worker, where nested calls run serially (`_calls.options` sees to that), or this thread."""

import _thread
import os
from collections.abc import Callable

in_worker = False
"""Whether this process is a worker: what it calls in parallel itself runs serially, in it."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder of parmap."""


class _Thread(_thread._local):  # noqa: SLF001 - `threading.local`; workers need nothing else of `threading` so soon
    crew: Callable[[], object] = staticmethod(lambda: None)
    """Finds the pool of threads, or the executor, whose tasks this thread runs, if it does."""


thread = _Thread()
