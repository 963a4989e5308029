"""Where this code runs."""

in_worker = False
"""Whether this process is a worker: what it calls in parallel itself runs serially, in it."""
