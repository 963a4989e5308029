"""Where this code runs."""

import os

in_worker = False
"""Whether this process is a worker: what it calls in parallel itself runs serially, in it."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder of parmap."""
