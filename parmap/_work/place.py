"""Whether this process is a worker, where nested calls run serially (`_calls.options` sees to that)."""

import os

in_worker = False
"""Whether this process is a worker: what it calls in parallel itself runs serially, in it."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder of parmap."""
