"""A script that uses pandas, and tells how long its import took."""

from __future__ import annotations

import sys
import time

BEGIN = time.perf_counter()

import pandas as pd  # noqa: E402 - it is timed

IMPORT = time.perf_counter() - BEGIN


def spread(size: int) -> float:
    """Make a small frame and say something about it."""
    frame = pd.DataFrame({"value": range(size + 10)})
    return float(frame["value"].quantile(0.9) - frame["value"].quantile(0.1))


if __name__ == "__main__":
    from cell import main

    main(sys.modules[__name__])
