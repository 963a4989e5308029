"""The environment variables that workers should have, and the program's tracker of shared memory.

`worker` sends what changed since a worker began.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from parmap._work import cpus as _cpus

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._work.surroundings import Context

_BLAS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def environment(context: Context, options: Options) -> dict[str, str]:
    """The program's environment, with what the options add, and limits on the threads of numeric libraries."""
    chosen: dict[str, str] = context.told["environ"] | dict(options.env or {})
    # Who chose a number for OpenMP meant all of them, which ask for it when they have none of their own.
    limit = chosen.get("OMP_NUM_THREADS", str(max(1, _cpus.cpu_count() // options.workers)))
    return dict.fromkeys(_BLAS, limit) | chosen


def lend_tracker(fds: tuple[int, ...]) -> None:
    """Send the way to this program's tracker of resources over a line that a worker has sent; start it, if need be."""
    for fd in fds:
        with socket.socket(fileno=fd) as line:
            try:
                from multiprocessing.resource_tracker import getfd

                tracker: Any = getfd()
                socket.send_fds(line, [b"\0"], [tracker])
            except Exception:  # noqa: BLE001, S110 - it can't be had: the worker must do without
                pass
