"""Whether this process is a worker, where nested calls run serially (`_calls.options` sees to that)."""

import os
import threading

in_worker = False
"""Whether this process is a worker: what it calls in parallel itself runs serially, in it."""


def worker() -> int:
    """Who runs this: the number of the process of a worker, or else of a thread."""
    return os.getpid() if in_worker else threading.get_native_id()


PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder of parmap."""
